//! Server-sent events, received by an `EventSource`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use epicycle::http::{End, HttpCodec, ServerRequest, ServerResponse, SseEvent, StatusCode};
use epicycle::{Action, Conn, ConnInfo, EventHandler, Server, WriteError};
use serde_json::json;

use crate::chromium::Browser;
use crate::util::eventually;

const PAGE: &str = r#"<!doctype html><link rel="icon" href="data:,"><script>
    const heard = [];
    const source = new EventSource("/events");
    const hear = (event) => heard.push([event.type, event.data, event.lastEventId]);
    source.onmessage = hear;
    source.addEventListener("news", hear);
</script>"#;

/// Serves the page and its events; keeps what clients say they have heard last.
struct News {
    last: Arc<Mutex<Vec<Option<String>>>>,
}

impl EventHandler for News {
    type Codec = HttpCodec;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec {
        HttpCodec::default()
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
        if request.path() != "/events" {
            let page = ServerResponse::ok()
                .header("Content-Type", "text/html")
                .body(PAGE);
            return conn.send(page).into();
        }
        let last = request.header("last-event-id").map(str::to_owned);
        let mut all = self.last.lock().expect("is sound");
        all.push(last);
        if all.len() > 1 {
            // It shall not come back any more.
            return conn
                .send(ServerResponse::new(StatusCode::NO_CONTENT))
                .into();
        }
        tell(conn).into()
    }
}

fn tell(conn: &mut Conn<'_, News>) -> Result<(), WriteError> {
    conn.send(ServerResponse::event_stream())?;
    conn.send(SseEvent::comment("data: none of this\nevent: nor this"))?;
    conn.send(SseEvent::new("first").retry(Duration::from_millis(10)))?;
    conn.send(SseEvent::new(" two\r\nlines: €\r").event("news").id("a 1"))?;
    conn.send(SseEvent::new(""))?;
    conn.send(End)
}

#[test]
fn a_browser_hears_what_is_sent_and_comes_back_where_it_was() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let last = Arc::<Mutex<Vec<_>>>::default();
    let kept = last.clone();
    let server = Server::bind("tcp://127.0.0.1:0").reactors(1);
    let running = server
        .start(move |_| News { last: kept.clone() })
        .expect("starts");
    browser.visit(&format!("http://{}/", running.local_addrs()[0]));
    eventually("it comes back", || last.lock().expect("is sound").len() > 1);
    let heard = json!([
        ["message", "first", ""],
        ["news", " two\nlines: €\n", "a 1"],
        ["message", "", "a 1"]
    ]);
    assert_eq!(browser.evaluate("heard"), heard);
    let told = last.lock().expect("is sound").clone();
    assert_eq!(told, [None, Some("a 1".into())]);
    eventually("it has given up", || {
        browser.evaluate("source.readyState == EventSource.CLOSED") == true
    });
    assert_eq!(browser.complaints, [] as [&str; 0]);
}
