use std::io::Write;
use std::time::Duration;

use memchr::memchr2;

use super::codec::HttpCodec;
use super::error::SendError;
use super::response::{Chunk, ServerResponse};
use super::stream::HttpStreamCodec;
use crate::buf::outbox::Outbox;
use crate::codec::{Encode, FrameError};

/// A server-sent event (WHATWG HTML, section 9.2), to be sent with [`Conn::send`](crate::Conn::send) after the answer
/// has begun with [`ServerResponse::event_stream`].
///
/// ```
/// use epicycle::http::{HttpCodec, ServerRequest, ServerResponse, SseEvent};
/// use epicycle::{Action, Conn, ConnInfo, EventHandler};
///
/// # struct News;
/// # impl EventHandler for News {
/// #     type Codec = HttpCodec;
/// #     type Session = ();
/// #     fn codec(&mut self, _: &ConnInfo<'_>) -> HttpCodec { HttpCodec::default() }
/// #     fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
/// fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _request: ServerRequest<'_>) -> Action {
///     let begun = conn.send(ServerResponse::event_stream());
///     begun.and_then(|()| conn.send(SseEvent::new("21.5").event("temperature").id("1"))).into()
/// }
/// # }
/// ```
///
/// In a page: `new EventSource("/events").addEventListener("temperature", event => show(event.data))`.
///
/// Proxies close a stream on which nothing is sent: send a [`comment`](Self::comment) about every 15 seconds. A stream
/// ends with [`End`](super::End). Browsers then request it again, unless they are answered 204.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct SseEvent<'a> {
    comment: Option<&'a str>,
    event: Option<&'a str>,
    id: Option<&'a str>,
    retry: Option<Duration>,
    data: Option<&'a str>,
}

impl<'a> SseEvent<'a> {
    /// Returns an event with data, which may have several lines. Lines may end in CR or CR LF; they arrive with LF.
    pub fn new(data: &'a str) -> Self {
        Self {
            data: Some(data),
            ..Self::default()
        }
    }

    /// Returns a comment, which clients ignore. It keeps the stream alive, and may be empty.
    pub fn comment(text: &'a str) -> Self {
        Self {
            comment: Some(text),
            ..Self::default()
        }
    }

    /// Sets the event's type, a single line. The default is `message`.
    pub fn event(mut self, name: &'a str) -> Self {
        self.event = Some(name);
        self
    }

    /// Sets the identifier that the client sends in `Last-SseEvent-ID` when it reconnects. It must be a single line,
    /// without NUL.
    pub fn id(mut self, id: &'a str) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the time that the client waits before it reconnects, in whole milliseconds.
    pub fn retry(mut self, delay: Duration) -> Self {
        self.retry = Some(delay);
        self
    }

    /// Returns the encoded event with its empty line. Use it to encode an event once and send it to many clients, each
    /// time as a [`Chunk`].
    ///
    /// ```
    /// # use epicycle::http::SseEvent;
    /// let bytes = SseEvent::new("two\nlines").id("7").to_bytes()?;
    /// assert_eq!(bytes, b"id: 7\ndata: two\ndata: lines\n\n");
    /// # Ok::<(), epicycle::http::SendError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Event`] if the type or the identifier contains a line break, or the identifier a NUL.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SendError> {
        let mut bytes = Vec::with_capacity(64 + self.data.map_or(0, str::len));
        if let Some(text) = self.comment {
            put_lines(&mut bytes, "", text);
        }
        if let Some(name) = self.event {
            check("event", name.contains(['\r', '\n']))?;
            put_line(&mut bytes, "event", name);
        }
        if let Some(id) = self.id {
            // Clients ignore an identifier that contains a NUL.
            check("id", id.contains(['\r', '\n', '\0']))?;
            put_line(&mut bytes, "id", id);
        }
        if let Some(delay) = self.retry {
            // Writing to memory does not fail.
            let _ = writeln!(bytes, "retry: {}", delay.as_millis());
        }
        if let Some(data) = self.data {
            put_lines(&mut bytes, "data", data);
        }
        bytes.push(b'\n');
        Ok(bytes)
    }
}

impl Encode<SseEvent<'_>> for HttpCodec {
    fn encode(&mut self, event: SseEvent<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.encode(Chunk(&event.to_bytes()?), dst)
    }
}

impl Encode<SseEvent<'_>> for HttpStreamCodec {
    fn encode(&mut self, event: SseEvent<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.encode(Chunk(&event.to_bytes()?), dst)
    }
}

impl<'a> ServerResponse<'a> {
    /// Returns the head of a stream of [`SseEvent`]s, marked as not cacheable.
    pub fn event_stream() -> Self {
        Self::ok()
            .header("Content-Type", "text/event-stream")
            .header("Cache-Control", "no-store")
            .streamed()
    }
}

fn check(field: &'static str, breaks_out: bool) -> Result<(), SendError> {
    if breaks_out {
        return Err(SendError::Event { field });
    }
    Ok(())
}

/// Appends each line of a text as a line of that field, so that no line can be read as another field.
fn put_lines(bytes: &mut Vec<u8>, field: &str, mut text: &str) {
    while let Some(end) = memchr2(b'\r', b'\n', text.as_bytes()) {
        put_line(bytes, field, &text[..end]);
        let len = if text[end..].starts_with("\r\n") {
            2
        } else {
            1
        };
        text = &text[end + len..];
    }
    put_line(bytes, field, text);
}

fn put_line(bytes: &mut Vec<u8>, field: &str, value: &str) {
    for part in [field, ": ", value, "\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{Codec, encode_to_vec};

    /// The event that a client dispatches: type, data, last identifier.
    type Dispatched = (String, String, String);

    /// Reads a stream by the rules for browsers in WHATWG HTML, section 9.2.6. Also returns the last `retry`.
    fn interpret(stream: &str) -> (Vec<Dispatched>, Option<u64>) {
        let (mut event, mut data, mut id) = (String::new(), String::new(), String::new());
        let (mut dispatched, mut retry) = (Vec::new(), None);
        for line in stream.replace("\r\n", "\n").split(['\r', '\n']) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    if !data.is_empty() {
                        data.pop();
                        dispatched.push((event.clone(), data.clone(), id.clone()));
                    }
                    event.clear();
                    data.clear();
                }
                "event" => event = value.into(),
                "data" => data.extend([value, "\n"]),
                "id" if !value.contains('\0') => id = value.into(),
                "retry" => retry = value.parse().ok().or(retry),
                _ => {}
            }
        }
        (dispatched, retry)
    }

    fn text(event: SseEvent<'_>) -> String {
        String::from_utf8(event.to_bytes().expect("is valid")).expect("is UTF-8")
    }

    #[test]
    fn an_event_has_its_fields_in_lines() {
        let event = SseEvent::new("a\nb")
            .event("news")
            .id("7")
            .retry(Duration::from_secs(2));
        assert_eq!(
            text(event),
            "event: news\nid: 7\nretry: 2000\ndata: a\ndata: b\n\n"
        );
        let found = ("news".into(), "a\nb".into(), "7".into());
        assert_eq!(interpret(&text(event)), (vec![found], Some(2000)));
    }

    #[test]
    fn a_comment_is_no_event() {
        assert_eq!(text(SseEvent::comment("")), ": \n\n");
        let stream = text(SseEvent::comment("still here\ndata: not this"));
        assert_eq!(stream, ": still here\n: data: not this\n\n");
        assert_eq!(interpret(&stream).0, []);
    }

    #[test]
    fn what_would_break_out_of_its_line_is_refused() {
        for (event, field) in [
            (SseEvent::new("x").event("a\ndata: b"), "event"),
            (SseEvent::new("x").event("a\r"), "event"),
            (SseEvent::new("x").id("1\n\n"), "id"),
            (SseEvent::new("x").id("\r"), "id"),
            (SseEvent::new("x").id("\0"), "id"),
        ] {
            assert_eq!(event.to_bytes(), Err(SendError::Event { field }));
        }
    }

    #[test]
    fn an_event_is_one_chunk_of_a_streamed_answer() {
        let mut codec = HttpCodec::default();
        let mut request = *b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        codec.decode(&mut request).expect("is a request");
        let refused = encode_to_vec(&mut codec, SseEvent::new("too soon"));
        assert!(refused.is_err());
        let head = encode_to_vec(&mut codec, ServerResponse::event_stream()).expect("is owed");
        let head = String::from_utf8(head).expect("is text");
        for header in [
            "Content-Type: text/event-stream\r\n",
            "Cache-Control: no-store\r\n",
            "Transfer-Encoding: chunked\r\n",
        ] {
            assert!(head.contains(header), "{head}");
        }
        let event = encode_to_vec(&mut codec, SseEvent::new("hello")).expect("has begun");
        assert_eq!(event, b"d\r\ndata: hello\n\n\r\n");
        assert!(encode_to_vec(&mut codec, SseEvent::new("x").id("\n")).is_err());
    }

    #[test]
    fn the_streaming_codec_sends_events_too() {
        let mut codec = HttpStreamCodec::default();
        let mut request = *b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        codec.decode(&mut request).expect("is a request");
        encode_to_vec(&mut codec, ServerResponse::event_stream()).expect("is owed");
        let event = encode_to_vec(&mut codec, SseEvent::comment("")).expect("has begun");
        assert_eq!(event, b"4\r\n: \n\n\r\n");
    }

    proptest! {
        #[test]
        fn whatever_is_sent_arrives(
            events in prop::collection::vec(("[^\r\n]*", "(?s).*", "[^\r\n\0]*"), 0..5)
        ) {
            let mut stream = String::new();
            let mut wanted = Vec::new();
            for (name, data, id) in events {
                stream += &text(SseEvent::new(&data).event(&name).id(&id));
                stream += &text(SseEvent::comment(&data));
                let data = data.replace("\r\n", "\n").replace('\r', "\n");
                wanted.push((name, data, id));
            }
            prop_assert_eq!(interpret(&stream), (wanted, None));
        }
    }
}
