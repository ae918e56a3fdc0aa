//! Pages that a browser loads by way of the gateway: as a proxy for HTTP, and as a SOCKS proxy.

use std::net::SocketAddr;

use epicycle::gateway::settings::{ListenerKind, ListenerSettings};
use epicycle::gateway::{Gateway, NoHooks};
use epicycle::http::{HttpCodec, Limits, ServerRequest, ServerResponse};
use epicycle::tls::TlsServer;
use epicycle::{Action, Conn, ConnInfo, EventHandler, Listen, Running, Server};

use crate::chromium::Browser;
use crate::pki::TRUSTED;
use crate::util::eventually;

/// A mebibyte is sent and comes back.
const PAGE: &str = r#"<!doctype html><link rel="icon" href="data:,"><script>
    const sent = Uint8Array.from({length: 1 << 20}, (_, n) => (n * n) >> 7);
    let result = null;
    fetch('/echo', {method: 'POST', body: sent})
        .then(answer => answer.arrayBuffer())
        .then(body => {
            const came = new Uint8Array(body);
            result = came.length === sent.length && came.every((byte, n) => byte === sent[n]);
        });
</script>"#;

/// Serves the page, and sends back what is posted.
struct Site;

impl EventHandler for Site {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::new(Limits::default().max_body(2 << 20))
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        request: ServerRequest<'_>,
    ) -> Action {
        let answer = ServerResponse::ok();
        let sent = match request.path() {
            "/echo" => conn.send(answer.body(request.body())),
            _ => conn.send(answer.header("Content-Type", "text/html").body(PAGE)),
        };
        sent.into()
    }
}

fn addr<H: EventHandler>(running: &Running<H>, listener: usize) -> SocketAddr {
    let addr = running.local_addrs()[listener].as_socket_addr();
    addr.expect("an address")
}

#[test]
fn a_browser_loads_pages_and_uploads_through_the_proxies() {
    let issued = TRUSTED.issue(&["page.test"]);
    let tls = TlsServer::new(issued.identity()).expect("is set up");
    let site = Server::bind("tcp://127.0.0.1:0")
        .and(Listen::on("tcp://127.0.0.1:0").tls(&tls))
        .reactors(1)
        .start(|_| Site)
        .expect("starts");
    let allow = ["page.test:*", "127.0.0.0/8:*"].map(|rule| rule.parse().expect(rule));
    let mut forward = ListenerSettings::forward("tcp://127.0.0.1:0");
    forward.egress.allow = allow.to_vec();
    let mut socks = ListenerSettings::new("tcp://127.0.0.2:0");
    socks.kind = ListenerKind::Socks5;
    socks.egress.allow = allow.to_vec();
    let gateway = Gateway::builder()
        .reactors(1)
        .listen(forward)
        .listen(socks)
        .build();
    // Nobody but the gateway knows the name.
    let names = |host: &str| match host {
        "page.test" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]),
        other => Err(std::io::Error::other(format!("{other} is unknown"))),
    };
    let proxies = gateway.expect("is sound").start_with(
        |_| NoHooks,
        |server, factory| Ok(server.resolver(names).start(factory)?),
    );
    let proxies = proxies.expect("starts");
    for (listener, scheme) in [(0, "http"), (1, "socks5")] {
        let proxy = format!("--proxy-server={scheme}://{}", addr(&proxies, listener));
        let Some(mut browser) = Browser::start_with(&[&proxy, "--ignore-certificate-errors"])
        else {
            return;
        };
        for (at, scheme) in [(0, "http"), (1, "https")] {
            browser.visit(&format!("{scheme}://page.test:{}/", addr(&site, at).port()));
            eventually("the upload has come back", || {
                !browser.evaluate("result").is_null()
            });
            assert_eq!(browser.evaluate("result"), true, "{proxy} {scheme}");
        }
        assert_eq!(browser.complaints, [] as [&str; 0]);
    }
}
