//! The reasons why directives are not carried over, and what there is in their place.

use super::parse::Directive;

/// Directives of which this program needs no counterpart.
const NOT_NEEDED: [&str; 43] = [
    "absolute_redirect",
    "chunked_transfer_encoding",
    "client_body_buffer_size",
    "daemon",
    "default_type",
    "error_log",
    "events",
    "gzip_buffers",
    "gzip_vary",
    "http2",
    "ignore_invalid_headers",
    "keepalive_disable",
    "large_client_header_buffers",
    "load_module",
    "log_format",
    "merge_slashes",
    "open_file_cache",
    "pid",
    "proxy_buffer_size",
    "proxy_buffering",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_headers_hash_bucket_size",
    "proxy_headers_hash_max_size",
    "proxy_http_version",
    "proxy_max_temp_file_size",
    "proxy_redirect",
    "proxy_request_buffering",
    "reset_timedout_connection",
    "sendfile",
    "server_names_hash_bucket_size",
    "server_names_hash_max_size",
    "server_tokens",
    "ssl_buffer_size",
    "ssl_session_cache",
    "ssl_session_tickets",
    "ssl_session_timeout",
    "tcp_nodelay",
    "tcp_nopush",
    "types",
    "types_hash_max_size",
    "user",
    "zone",
];

/// Directives that keep requests out, and what can take their place. Without them more is let in.
const RESTRICTING: [(&str, &str); 15] = [
    ("allow", "see `allow` and `deny` of a route"),
    ("auth_basic", USERS),
    ("auth_basic_user_file", USERS),
    ("auth_jwt", HOOK),
    ("auth_request", HOOK),
    ("deny", "see `allow` and `deny` of a route"),
    ("if", HOOK),
    ("internal", HOOK),
    ("limit_conn", CONNECTIONS),
    ("limit_except", HOOK),
    ("limit_req", "see `limit` of a route"),
    ("satisfy", HOOK),
    ("secure_link", HOOK),
    ("ssl_verify_client", "see `tls.client_ca` of a listener"),
    ("valid_referers", HOOK),
];

const USERS: &str = "see `auth` of a route, whose file has hashes of Argon2 or bcrypt";
const HOOK: &str = "a hook can refuse requests";
const CONNECTIONS: &str = "see `max_clients_per_ip` of a listener";

/// Other directives that have something like them here, which is not the same.
const COUNTERPARTS: [(&str, &str); 26] = [
    ("error_page", "see `error_pages` of a route"),
    ("gzip_min_length", COMPRESSED),
    ("gzip_proxied", COMPRESSED),
    ("gzip_types", COMPRESSED),
    ("health_check", "see `health` of a pool"),
    ("keepalive_time", "see `timeout.max_age` of a listener"),
    ("limit_conn_zone", CONNECTIONS),
    ("map", "see `when` and `split` of a route"),
    ("mirror", "see `mirror` of a route"),
    ("proxy_ssl_certificate", NODES),
    ("proxy_ssl_certificate_key", NODES),
    ("proxy_ssl_name", NODES),
    ("proxy_ssl_trusted_certificate", NODES),
    ("real_ip_header", TRUSTED),
    ("real_ip_recursive", TRUSTED),
    (
        "resolver",
        "names are looked up for each connect; see `discover` of a pool",
    ),
    (
        "rewrite",
        "see `rewrite`, `strip_prefix` and `add_prefix` of a route",
    ),
    ("root", "no files are served here"),
    ("set_real_ip_from", TRUSTED),
    ("split_clients", "see `split` of a route"),
    ("ssl_ciphers", CIPHERS),
    (
        "ssl_client_certificate",
        "see `tls.client_ca` of a listener",
    ),
    ("ssl_prefer_server_ciphers", CIPHERS),
    ("stream", "see listeners of the kinds \"tcp\" and \"udp\""),
    ("stub_status", "see listeners of the kind \"metrics\""),
    ("try_files", "no files are served here"),
];

const COMPRESSED: &str = "`compress` is for all texts of more than 1 KiB";
const NODES: &str = "see `tls` of a pool";
const TRUSTED: &str = "see `trusted` of a listener";
const CIPHERS: &str = "the ciphers are those of rustls";

/// Returns the reason why a directive is not carried over.
pub(super) fn why(directive: &Directive) -> String {
    let name = directive.name.as_str();
    let find = |list: &[(&str, &'static str)]| {
        let mut list = list.iter();
        list.find_map(|(known, see)| (*known == name).then_some(*see))
    };
    let why = match name {
        "include" => {
            "it is not followed; put what it names in its place, or run this on that file as well"
        }
        "map" if directive.arg() == "$http_upgrade" => "not needed: WebSockets are passed on",
        "return" => match directive.arg().as_bytes() {
            [b'4' | b'5', ..] => return restricts(HOOK),
            [b'2', ..] => {
                "there are no fixed answers: `health` of a listener answers at one path, and a hook at any"
            }
            _ => "there are no redirects; a hook can answer",
        },
        name if NOT_NEEDED.contains(&name) => "not needed",
        _ => match find(&RESTRICTING) {
            Some(see) => return restricts(see),
            None => find(&COUNTERPARTS).unwrap_or("there is nothing like it"),
        },
    };
    why.to_owned()
}

fn restricts(see: &str) -> String {
    format!("IT RESTRICTS ACCESS, and nothing takes its place: {see}")
}
