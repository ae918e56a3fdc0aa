//! `--from-nginx`: the output is a sound configuration, and what it leaves out is named.

use std::fs;

use crate::rig::{Client, Folder, Origin, Program, command};
use crate::util::eventually;

/// Converts a file. Returns whether that worked, the configuration, and what was told.
fn convert(folder: &Folder, text: impl AsRef<[u8]>) -> (bool, String, String) {
    folder.write("nginx.conf", text);
    let output = command()
        .arg("--from-nginx")
        .arg(folder.path("nginx.conf"))
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("is text");
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Converts a file, and checks the configuration.
fn converted(folder: &Folder, text: &str) -> (String, String) {
    let (works, configuration, told) = convert(folder, text);
    assert!(works, "{told}");
    folder.write("gateway.toml", &configuration);
    let check = command()
        .arg("--check")
        .arg("--config")
        .arg(folder.path("gateway.toml"))
        .output()
        .expect("it runs");
    let faults = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{faults}\n{configuration}");
    (configuration, told)
}

const SITE: &str = r#"
user www-data;
worker_processes 2;
events { worker_connections 1024; }

http {
    include /etc/nginx/mime.types;
    sendfile on;
    access_log /var/log/nginx/access.log;
    keepalive_timeout 65;
    proxy_read_timeout 30s;
    gzip on; gzip_comp_level 4; gzip_types application/json;
    limit_req_zone $binary_remote_addr zone=each:10m rate=10r/s; limit_req_zone $server_name zone=all:1m rate=1r/s;
    upstream app {
        least_conn;
        server 10.0.0.1:8080 weight=5 max_conns=100;
        server 10.0.0.2:8080 max_conns=100;
        server 10.0.0.3:8080 backup max_conns=100;
        server 10.0.0.4:8080 down;
        keepalive 32;
    }

    server {
        listen 80;
        server_name app.example.org;
        return 301 https://$host$request_uri;
    }

    server {
        listen 443 ssl http2;
        listen [::]:443 ssl;
        server_name app.example.org .example.com ~^www\d+\.example\.org$;
        ssl_certificate site.pem;
        ssl_certificate_key site.key;
        client_max_body_size 10m;

        location / {
            proxy_pass http://app;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Env "prod \"1\"";
            proxy_set_header Cookie "";
            proxy_set_header X-Request-Id $request_id;
            add_header X-Served-By "gateway" always;
            proxy_hide_header Server;
        }
        location /api/ {
            proxy_pass http://10.0.1.1:9000/v2/;
            proxy_connect_timeout 2s;
            proxy_next_upstream error timeout http_503;
            proxy_next_upstream_tries 2; limit_req zone=each burst=20; limit_req zone=all;
            allow 10.0.0.0/8;
            deny all;
        }
        location = /status { proxy_pass http://10.0.1.1:9000/internal/status; }
        location ~ \.php$ { fastcgi_pass 127.0.0.1:9000; }
        location /static/ { root /var/www; }
        location /private/ {
            auth_basic "closed";
            proxy_pass http://app;
        }
    }
}
"#;

#[test]
fn the_common_part_of_a_configuration_is_carried_over_and_the_rest_is_named() {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["app.example.org".to_owned()]).expect("is made");
    folder.write("site.pem", made.cert.pem());
    folder.write("site.key", made.signing_key.serialize_pem());
    let (configuration, told) = converted(&folder, SITE);
    for wanted in [
        "reactors = 2\n",
        "log.access = { to = \"/var/log/nginx/access.log\", format = \"combined\" }",
        "on = \"tcp://:443\"\ntls = [{ cert = \"site.pem\", key = \"site.key\" }]",
        "timeout.idle = \"65s\"",
        "host = \"*.example.com\"\npath = \"/api/*\"",
        "strip_prefix = \"/api\"\nadd_prefix = \"/v2\"\nallow = [\"10.0.0.0/8\"]",
        "path = \"/status\"\npool = \"10_0_1_1_9000",
        "rewrite = \"/internal/status\"",
        "request.set = { \"X-Env\" = \"prod \\\"1\\\"\" }",
        "request.remove = [\"Cookie\"]",
        "response.remove = [\"Server\"]",
        "response.set = { \"X-Served-By\" = \"gateway\" }",
        "max_body = \"10MiB\"",
        "{ to = \"http://10.0.0.1:8080\", weight = 5 },",
        "{ to = \"http://10.0.0.3:8080\", backup = true },",
        "{ to = \"http://10.0.0.4:8080\", state = \"down\" },",
        "compress = { level = 4 }",
        "limit = { rate = \"10/s\", burst = 21, by = \"ip\" }",
        "balance = \"least\"",
        "max_connections = 100",
        "max_idle = 32",
        "retries = 1\nretry_on = [503]\ntimeout.body_idle = \"30s\"\ntimeout.connect = \"2s\"",
    ] {
        assert!(
            configuration.contains(wanted),
            "{wanted}\n\n{configuration}"
        );
    }
    // A server that only redirects opens no listener, which would serve without TLS what needs it.
    assert!(!configuration.contains(":80\"\n"), "{configuration}");
    for (line, wanted) in [
        (2, "`user www-data`: not needed"),
        (7, "`include /etc/nginx/mime.types`: it is not followed"),
        (
            12,
            "`gzip_types application/json`: `compress` is for all texts",
        ),
        (13, "zone=all:1m rate=1r/s`: a limit counts by address"),
        (23, "it has no location that can be carried over"),
        (26, "there are no redirects"),
        (30, "there is no HTTP/2"),
        (32, "is no host here"),
        (44, "a value has no variables here"),
        (
            52,
            "zone=each burst=20`: requests within the burst are not delayed",
        ),
        (52, "zone=each burst=20`: each route counts for itself"),
        (
            52,
            "`limit_req zone=all`: IT RESTRICTS ACCESS, and nothing takes its place: see `limit`",
        ),
        (57, "there are no regular expressions"),
        (58, "ITS REQUESTS GO TO THE NEXT LOCATION THAT FITS"),
        (60, "`auth_basic closed`: IT RESTRICTS ACCESS"),
    ] {
        let is_told = |text: &str, begin: &str| {
            text.lines()
                .any(|told| told.starts_with(begin) && told.contains(wanted))
        };
        let at = format!("{}:{line}: ", folder.path("nginx.conf").display());
        assert!(is_told(&told, &at), "{line}: {wanted}\n{told}");
        assert!(
            is_told(&configuration, &format!("# line {line}: ")),
            "{wanted}\n{configuration}"
        );
    }
}

#[test]
fn a_file_of_a_site_becomes_a_gateway_that_serves() {
    let origin = Origin::start("app");
    let folder = Folder::new();
    let text = format!(
        "server {{\n listen 127.0.0.1:0;\n location /a/ {{ proxy_pass http://{0}/b/; }}\n \
         location / {{ proxy_pass http://{0}; }}\n}}\n",
        origin.addr
    );
    let (configuration, _) = converted(&folder, &text.replace(":0;", ":1;"));
    folder.write(
        "gateway.toml",
        configuration.replace("127.0.0.1:1\"", "127.0.0.1:0\""),
    );
    let program = Program::start(&folder, 1);
    let mut client = Client::to(program.addrs[0]);
    for (asked, seen) in [("/a/x?y", "GET /b/x?y "), ("/other", "GET /other ")] {
        assert_eq!(client.get(asked).expect("is served").status, 200);
        eventually("it has come", || {
            let heads = origin.heads.lock().expect("is sound");
            heads.iter().any(|head| {
                head.starts_with(seen) && head.contains(&format!("host: {}", origin.addr))
            })
        });
    }
}

#[test]
fn a_file_that_is_none_of_nginx_is_told_with_its_line() {
    let folder = Folder::new();
    for (text, wanted) in [
        (
            "http {\n server {\n",
            "3: the block that began in line 2 has no }",
        ),
        ("}\n", "1: a } closes no block"),
        ("http {\n}\n}\n", "3: a } closes no block"),
        ("a \"b;\n", "1: a text has no \" at its end"),
        ("a 'b", "1: a text has no ' at its end"),
        ("\na b\n", "2: `a` has no semicolon at its end"),
        ("a }", "1: `a` has no semicolon at its end"),
        ("{ a; }", "1: a block has no name"),
        (";", "1: a semicolon ends no directive"),
        (
            "a_by_lua_block { if x then { }",
            "1: the code that begins here has no }",
        ),
        (
            "server { listen 80; }",
            "there is no server with a proxy_pass",
        ),
        ("", "there is no server with a proxy_pass"),
        ("a ${b", "1: `a` has no semicolon at its end"),
    ] {
        let (works, configuration, told) = convert(&folder, text);
        assert!(
            !works && configuration.is_empty(),
            "{text:?}: {configuration}"
        );
        assert!(told.contains(wanted), "{text:?}: {told}");
    }
    let deep = "a {".repeat(100_000) + &"}".repeat(100_000);
    let (works, _, told) = convert(&folder, deep);
    assert!(!works && told.contains("nested deeper than 32"), "{told}");
    let (works, _, told) = convert(&folder, vec![b'#'; (8 << 20) + 1]);
    assert!(!works && told.contains("larger than 8 MiB"), "{told}");
    let (works, _, told) = convert(&folder, [0xff, 0xfe]);
    assert!(!works && told.contains("it is no text"), "{told}");
    fs::remove_file(folder.path("nginx.conf")).expect("is there");
    let output = command()
        .arg("--from-nginx")
        .arg(folder.path("nginx.conf"))
        .output();
    assert!(!output.expect("it runs").status.success());
}

#[test]
fn nothing_in_a_file_can_break_the_new_one() {
    let folder = Folder::new();
    let bad = |line: &str| {
        let site =
            format!("server {{\n location /ok {{ proxy_pass http://10.0.0.1; }}\n {line}\n}}\n");
        converted(&folder, &site).0
    };
    for line in [
        "location \"/a\\nb\" { proxy_pass http://10.0.0.1; }",
        "location '/\"]\\n[evil]' { proxy_pass http://10.0.0.1; }",
        "location /x { proxy_pass http://10.0.0.1/\"y; }",
        "location /x { proxy_pass http://10.0.0.1:99999; }",
        "location /x { proxy_pass http://$host; }",
        "location /x { proxy_pass http://10.0.0.1; proxy_set_header 'A\\r\\nB' c; }",
        "location /x { proxy_pass http://10.0.0.1; proxy_set_header A 'b\\r\\nc'; }",
        "location /x { proxy_pass http://10.0.0.1; proxy_set_header Host 'b c'; }",
        "location /x { proxy_pass http://10.0.0.1; proxy_set_header A x; proxy_set_header a y; }",
        "location /x { proxy_pass http://10.0.0.1; proxy_set_header Content-Length 3; }",
        "location /x { proxy_pass http://10.0.0.1; proxy_connect_timeout 0; }",
        "location /x { proxy_pass http://10.0.0.1; proxy_read_timeout 99999999999999999999s; }",
        "location /x { proxy_pass http://10.0.0.1; client_max_body_size 99999999999999999999g; }",
        "location /x { proxy_pass http://10.0.0.1; deny all; }",
        "location /x { proxy_pass http://10.0.0.1; deny 1.2.3.4/99; }",
        "location /x { proxy_pass http://unix:/run/a.sock; }",
        "location /ok { proxy_pass http://10.0.0.2; }",
        "location /a*b { proxy_pass http://10.0.0.1; }",
        "location /a?b { proxy_pass http://10.0.0.1; }",
        "location /é { proxy_pass http://10.0.0.1/ü; }",
        "server_name \"a b\" a..b x..y *.*.c good.test;",
        "server_name évil.test good.test;",
        "listen 81; listen 80 ssl;",
        "listen unix:/run/x.sock;",
        "listen 81; listen 70000; listen [::1]:x; listen a b;",
        "access_log \"/tmp/a\\nb\";",
        "keepalive_requests 0;",
        "unknown \"\\n[pool.evil]\";",
    ] {
        bad(line);
    }
}
