//! WebSocket over TLS.

use epicycle::ws::{DeflateOptions, Handshake};
use epicycle::{CloseReason, Connect};

use crate::client::{News, call_by, messages, next};
use crate::pki::{client_tls, local, server_tls};
use crate::service::{Setup, start};

#[test]
fn a_websocket_over_tls_is_opened_used_and_closed_as_any_other() {
    let setup = Setup {
        deflate: Some(DeflateOptions::default()),
        ..Setup::default()
    };
    let (server, log) = start(local(&server_tls()), setup);
    let connect = Connect::to(format!("tcp://{}", server.local_addrs()[0])).tls(&client_tls());
    let handshake = Handshake::new("localhost", "/").deflate(DeflateOptions::default());
    let (_client, news) = call_by(connect, handshake, messages());
    assert!(matches!(
        next(&news),
        News::Opened {
            compressed: true,
            ..
        }
    ));
    for expected in messages() {
        match next(&news) {
            News::Message(message) => assert!(message == expected),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(next(&news), News::Pong(_)));
    assert!(matches!(next(&news), News::Closed(Some(1000), _)));
    assert!(matches!(next(&news), News::Gone(CloseReason::Peer)));
    assert_eq!(log.await_closed(), (Some(1000), "done".to_owned()));
}
