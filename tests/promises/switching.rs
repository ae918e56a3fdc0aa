//! Codecs by the listener, and codecs that change in mid-stream.

use std::sync::mpsc;
use std::time::Duration;

use epicycle::codec::{
    self, CloseCause, Codec, Decoded, Encode, FrameError, Lines, Peek, Raw, Stage,
};
use epicycle::{
    Action, Answer, CloseReason, Closed, Conn, ConnId, ConnInfo, EventHandler, Listen, Origin,
    Outbox, Reactor, Running, Server, TimeoutKind, WriteError,
};

use crate::util::client::{Client, TempPath};
use crate::util::{LONG, eventually};

/// Questions that end in `?`, one answered after the other. Each is delivered twice: when it is found, and when it is consumed.
#[derive(Default)]
struct Questions {
    owed: bool,
    found: bool,
}

enum Part<'a> {
    Found,
    Question(&'a [u8]),
}

struct Answered<'a>(&'a str);

impl Codec for Questions {
    type Frame<'a> = Part<'a>;
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Part<'a>>, FrameError> {
        let Some(end) = src.iter().position(|byte| *byte == b'?') else {
            let at_least = src.len() + 1;
            return Ok(Decoded::NeedMore { at_least });
        };
        if self.found {
            self.found = false;
            let (frame, consumed) = (Part::Question(&src[..end]), end + 1);
            return Ok(Decoded::Frame { frame, consumed });
        }
        if self.owed {
            return Ok(Decoded::Hold);
        }
        (self.owed, self.found) = (true, true);
        let (frame, consumed) = (Part::Found, 0);
        Ok(Decoded::Frame { frame, consumed })
    }

    fn close_notice(&mut self, _: CloseCause<'_>, dst: &mut Outbox<'_>) {
        if self.owed {
            dst.put(b"no answer!");
        }
    }

    fn stage(&self) -> Stage {
        if self.owed {
            Stage::Answering
        } else {
            Stage::Idle
        }
    }
}

impl Encode<Answered<'_>> for Questions {
    fn encode(&mut self, item: Answered<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.owed = false;
        dst.put(item.0.as_bytes());
        Ok(())
    }
}

codec::one_of! {
    enum Protocol {
        Peek(Peek),
        Questions(Questions),
        Lines(Lines),
        Raw(Raw),
    }
    enum ProtocolFrame;
    impl Encode<Answered<'_>> for Questions;
    impl Encode<&[u8]> for Lines | Raw;
}

/// Serves by what it reads: `lines`, `raw` and `questions` choose a protocol, first by the first bytes.
struct Many {
    told: mpsc::Sender<String>,
    /// The connection whose switch another one orders.
    first: Option<ConnId>,
    /// The answers that are given or dropped when the test says so.
    owed: mpsc::Sender<Answer<Many>>,
}

impl Many {
    fn tell(&self, what: impl Into<String>) {
        let _ = self.told.send(what.into());
    }

    fn command(&mut self, conn: &mut Conn<'_, Self>, line: &[u8]) -> Action {
        match line {
            b"raw" => conn.switch(Raw),
            b"questions" => conn.switch(Questions::default()),
            b"raw later" => {
                conn.set_timer(Duration::from_millis(5), 0);
                conn.pause_reads();
            }
            b"switch the first" => {
                let first = self.first.expect("is open");
                conn.with(first, |first, _| first.switch(Lines::new()))
                    .expect("is there");
            }
            b"later" => drop(self.owed.send(conn.defer_answer())),
            b"wrong" => {
                let sent = conn.send(Answered("never"));
                assert!(matches!(
                    sent,
                    Err(WriteError::Frame(FrameError::OtherCodec {
                        expected: "Questions"
                    }))
                ));
                return conn.send(&b"refused"[..]).into();
            }
            line => return conn.send(line).into(),
        }
        Action::Continue
    }
}

impl EventHandler for Many {
    type Codec = Protocol;
    type Session = ();

    fn codec(&mut self, info: &ConnInfo<'_>) -> Protocol {
        self.tell(format!(
            "{:?} {:?} {:?}",
            info.label(),
            info.transport(),
            info.alpn()
        ));
        match (info.label(), info.origin()) {
            ("lines", Origin::Accepted { listener: 1 }) => Lines::new().into(),
            ("questions", _) => Questions::default().into(),
            _ => Peek::new().into(),
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        self.first.get_or_insert(conn.id());
        self.tell(format!("open {:?} {:?}", conn.label(), conn.transport()));
        Some(())
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        (): &mut (),
        frame: ProtocolFrame<'_>,
    ) -> Action {
        match frame {
            ProtocolFrame::Peek(bytes) => {
                self.tell(format!("peek {}", bytes.len()));
                match bytes {
                    [b'?', b'?', ..] => conn.switch(Questions::default()),
                    [b'=', b'=', ..] => conn.switch(Lines::new()),
                    [_, _, ..] => conn.switch(Raw),
                    [b'!'] if conn.peer_has_shut_down() => conn.switch(Lines::new()),
                    _ => {}
                }
                Action::Continue
            }
            ProtocolFrame::Lines(line) => self.command(conn, line),
            ProtocolFrame::Raw(bytes) => conn.send(bytes).into(),
            ProtocolFrame::Questions(Part::Found) => Action::Continue,
            ProtocolFrame::Questions(Part::Question(b"lines")) => {
                conn.switch(Lines::new());
                Action::Continue
            }
            ProtocolFrame::Questions(Part::Question(b"wait")) => Action::Continue,
            ProtocolFrame::Questions(Part::Question(b"later")) => {
                let _ = self.owed.send(conn.defer_answer());
                Action::Continue
            }
            ProtocolFrame::Questions(Part::Question(_)) => conn.send(Answered("yes.")).into(),
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        conn.switch(Raw);
        conn.resume_reads();
        Action::Continue
    }

    fn on_peer_shutdown(&mut self, conn: &mut Conn<'_, Self>, (): &mut ()) -> Action {
        self.tell("end");
        let _ = conn.write(b"bye");
        Action::Close
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.tell(format!("{reason:?}"));
    }
}

fn start(server: Server) -> (Running<Many>, mpsc::Receiver<String>) {
    let (running, hears, _) = start_owing(server);
    (running, hears)
}

/// Starts it, and returns the answers that it owes as well.
#[allow(clippy::type_complexity, reason = "it is taken apart at once")]
fn start_owing(
    server: Server,
) -> (
    Running<Many>,
    mpsc::Receiver<String>,
    mpsc::Receiver<Answer<Many>>,
) {
    let (told, hears) = mpsc::channel();
    let (owed, answers) = mpsc::channel();
    let server = server.reactors(1);
    let running = server.start(move |_| Many {
        told: told.clone(),
        first: None,
        owed: owed.clone(),
    });
    (running.expect("starts"), hears, answers)
}

fn hear(hears: &mpsc::Receiver<String>, what: &str) {
    loop {
        if hears.recv_timeout(LONG).expect(what) == what {
            break;
        }
    }
}

#[test]
fn a_codec_is_made_for_the_listener_its_label_and_its_transport() {
    let path = TempPath::new();
    let (running, hears) = start(
        Server::bind("tcp://127.0.0.1:0")
            .and(Listen::on("tcp://127.0.0.1:0").label("lines"))
            .and(Listen::on(path.addr().as_str()).label("questions")),
    );
    let addrs = running.local_addrs();
    Client::connect(&addrs[0]).round_trip("raw bytes");
    hear(&hears, "\"\" Tcp None");
    Client::connect(&addrs[1]).round_trip_with("a line\n", "a line\n");
    hear(&hears, "\"lines\" Tcp None");
    Client::connect(&addrs[2]).round_trip_with("really?", "yes.");
    hear(&hears, "\"questions\" Unix None");
}

#[test]
fn a_connection_knows_the_label_of_its_listener_and_its_transport() {
    let (path, records) = (TempPath::new(), TempPath::new());
    let (running, hears) = start(
        Server::bind("tcp://127.0.0.1:0")
            .and(Listen::on("tcp://127.0.0.1:0").label("lines"))
            .and(Listen::on(path.addr().as_str()).label("stream"))
            .and(
                Listen::on(records.addr().replace("unix:", "unixpacket:").as_str())
                    .label("records"),
            ),
    );
    let addrs = running.local_addrs();
    let _plain = Client::connect(&addrs[0]);
    hear(&hears, "open \"\" Tcp");
    let _lines = Client::connect(&addrs[1]);
    hear(&hears, "open \"lines\" Tcp");
    let _stream = Client::connect(&addrs[2]);
    hear(&hears, "open \"stream\" Unix");
    let to = records.addr().replace("unix:", "unixpacket:");
    running
        .engine()
        .connect(to.as_str())
        .expect("the engine runs");
    let mut both = [(); 2].map(|()| {
        loop {
            let heard = hears.recv_timeout(LONG).expect("both ends open");
            if heard.starts_with("open") {
                break heard;
            }
        }
    });
    both.sort();
    assert_eq!(
        both,
        ["open \"\" UnixPacket", "open \"records\" UnixPacket"]
    );
}

#[test]
fn a_peek_shows_the_first_bytes_until_a_protocol_is_chosen_and_loses_none() {
    let (running, hears) = start(Server::bind("tcp://127.0.0.1:0"));
    let client = Client::to(&running);
    client.send("?");
    hear(&hears, "peek 1");
    client.send("?");
    hear(&hears, "peek 2");
    assert_eq!(client.recv(8), b"yes.yes.");

    let client = Client::to(&running);
    client.round_trip_with("==one\ntwo\n", "==one\ntwo\n");
    let client = Client::to(&running);
    client.round_trip("anything");
}

#[test]
fn a_peek_shows_what_there_is_once_more_at_the_end_of_the_stream() {
    let (running, hears) = start(Server::bind("tcp://127.0.0.1:0"));
    let client = Client::to(&running);
    client.send("!");
    hear(&hears, "peek 1");
    client.end_writes();
    hear(&hears, "peek 1");
    assert_eq!(client.recv_to_end(), b"!\nbye");

    // Nothing is chosen, and nobody waits for more.
    let client = Client::to(&running);
    client.send("?");
    client.end_writes();
    hear(&hears, "peek 1");
    hear(&hears, "peek 1");
    assert_eq!(client.recv_to_end(), b"bye");
}

#[test]
fn a_peek_that_is_never_enough_ends_by_the_read_timeout() {
    let server = Server::bind("tcp://127.0.0.1:0").read_timeout(Duration::from_millis(50));
    let (running, hears) = start(server);
    let client = Client::to(&running);
    client.send("?");
    hear(
        &hears,
        &format!("{:?}", CloseReason::Timeout(TimeoutKind::Read)),
    );
    assert_eq!(client.recv_to_end(), b"");
}

#[test]
fn input_behind_the_frame_in_hand_goes_to_the_new_codec() {
    let (running, _hears) = start(Server::bind("tcp://127.0.0.1:0").max_frame(1 << 20));
    let lines = || {
        let client = Client::to(&running);
        client.round_trip_with("==\n", "==\n");
        client
    };
    let client = lines();
    client.send("raw\nthis\nis raw");
    assert_eq!(client.recv(11), b"this\nis raw");

    // A frame that has not consumed its input yet takes it along.
    let client = lines();
    client.send("questions\nwhat?lines?a line\nraw\nraw");
    assert_eq!(client.recv(4), b"yes.");
    assert_eq!(client.recv(7), b"a line\n");
    assert_eq!(client.recv(3), b"raw");

    // From a timer, with input that has arrived meanwhile.
    let client = lines();
    client.send("raw later\nno\nlines");
    assert_eq!(client.recv(8), b"no\nlines");
}

#[test]
fn what_the_old_codec_owed_is_owed_no_more_and_held_input_goes_on() {
    let server = Server::bind("tcp://127.0.0.1:0").answer_timeout(Duration::from_millis(200));
    let (running, _hears) = start(server);
    let waiting = Client::to(&running);
    waiting.round_trip_with("??", "yes.yes.");
    waiting.send("wait?held\n");
    // It holds the input behind the question, until another connection switches it.
    let other = Client::to(&running);
    other.round_trip_with("==\n", "==\n");
    other.send("switch the first\n");
    assert_eq!(waiting.recv(5), b"held\n");
    // The answer timeout does not end it either.
    std::thread::sleep(Duration::from_millis(300));
    waiting.round_trip_with("still here\n", "still here\n");
}

#[test]
fn the_end_of_the_stream_that_waited_for_an_answer_is_told_after_a_switch() {
    let (running, hears) = start(Server::bind("tcp://127.0.0.1:0"));
    let waiting = Client::to(&running);
    waiting.round_trip_with("??", "yes.yes.");
    waiting.send("wait?last\n");
    waiting.end_writes();
    let other = Client::to(&running);
    other.round_trip_with("==\n", "==\n");
    other.send("switch the first\n");
    assert_eq!(waiting.recv_to_end(), b"last\nbye");
    hear(&hears, "end");
}

#[test]
fn a_switch_at_the_end_of_the_stream_has_the_end_told_once() {
    let (running, hears) = start(Server::bind("tcp://127.0.0.1:0"));
    let client = Client::to(&running);
    client.send("==\nraw");
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"==\nbye");
    drop(client);
    hear(&hears, "end");
    hear(&hears, "Peer");
    assert!(hears.try_recv().is_err());
}

#[test]
fn an_item_for_another_codec_is_refused() {
    let (running, _hears) = start(Server::bind("tcp://127.0.0.1:0"));
    let client = Client::to(&running);
    client.round_trip_with("==\nwrong\n", "==\nrefused\n");
    eventually("it stays open", || running.engine().connections() == 1);
}

#[test]
fn one_of_several_codecs_that_has_no_stages_keeps_its_deferred_answers() {
    let (running, hears, answers) = start_owing(Server::bind("tcp://127.0.0.1:0"));
    let client = Client::to(&running);
    client.send("==\nlater\nlater\n");
    client.end_writes();
    let (one, other) = (answers.recv_timeout(LONG), answers.recv_timeout(LONG));
    // The end of the stream arrives meanwhile.
    std::thread::sleep(Duration::from_millis(50));
    let (one, other) = (one.expect("is owed"), other.expect("is owed"));
    one.send(&b"one"[..]).expect("is taken");
    assert_eq!(client.recv(7), b"==\none\n");
    other.send(&b"other"[..]).expect("is taken");
    assert_eq!(client.recv_to_end(), b"other\n");
    drop(client);
    hear(&hears, "Peer");
}

#[test]
fn a_deferred_answer_to_a_request_before_a_switch_has_no_effect() {
    let (running, _hears, answers) = start_owing(Server::bind("tcp://127.0.0.1:0"));
    let switch = || {
        let orders = Client::to(&running);
        orders.round_trip_with("==\n", "==\n");
        orders.send("switch the first\n");
    };
    let client = Client::to(&running);
    client.round_trip_with("??", "yes.yes.");
    // One codec reports what is owed. The other one does not.
    for order in ["later?", "later\n"] {
        client.send(order);
        let late = answers.recv_timeout(LONG).expect("is owed");
        switch();
        client.round_trip_with("a line\n", "a line\n");
        drop(late);
        client.round_trip_with("still here\n", "still here\n");
    }
    client.send("later\n");
    let late = answers.recv_timeout(LONG).expect("is owed");
    switch();
    client.round_trip_with("a line\n", "a line\n");
    late.send(&b"too late"[..]).expect("is taken");
    client.round_trip_with("still here\n", "still here\n");
}
