//! The frames of AMQP 0-9-1: <https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>.

/// The first bytes of a client.
pub(super) const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";
pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;
/// The bytes of a frame beside its payload.
pub(super) const OVERHEAD: usize = 8;
/// The longest frame that is agreed to.
pub(super) const MAX_FRAME: u32 = 131_072;

/// The number of a method: that of its class, and its own.
pub(super) type Method = (u16, u16);

pub(super) const START: Method = (10, 10);
pub(super) const START_OK: Method = (10, 11);
pub(super) const TUNE: Method = (10, 30);
pub(super) const TUNE_OK: Method = (10, 31);
pub(super) const OPEN: Method = (10, 40);
pub(super) const OPEN_OK: Method = (10, 41);
pub(super) const CLOSE: Method = (10, 50);
pub(super) const CHANNEL_OPEN: Method = (20, 10);
pub(super) const CHANNEL_OPEN_OK: Method = (20, 11);
pub(super) const CHANNEL_CLOSE: Method = (20, 40);
pub(super) const DECLARE_EXCHANGE: Method = (40, 10);
pub(super) const DECLARE_EXCHANGE_OK: Method = (40, 11);
pub(super) const DECLARE_QUEUE: Method = (50, 10);
pub(super) const DECLARE_QUEUE_OK: Method = (50, 11);
pub(super) const BIND_QUEUE: Method = (50, 20);
pub(super) const BIND_QUEUE_OK: Method = (50, 21);
pub(super) const QOS: Method = (60, 10);
pub(super) const QOS_OK: Method = (60, 11);
pub(super) const CONSUME: Method = (60, 20);
pub(super) const CONSUME_OK: Method = (60, 21);
pub(super) const CANCEL: Method = (60, 30);
pub(super) const PUBLISH: Method = (60, 40);
pub(super) const DELIVER: Method = (60, 60);
pub(super) const ACK: Method = (60, 80);
pub(super) const NACK: Method = (60, 120);
pub(super) const CONFIRM: Method = (85, 10);
pub(super) const CONFIRM_OK: Method = (85, 11);

pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Takes the first frame out of what was read. Returns none if it is not whole.
pub(super) fn take_frame(read: &mut Vec<u8>) -> Result<Option<Frame>, String> {
    let Some(head) = read.get(..7) else {
        return Ok(None);
    };
    let (kind, len) = (
        head[0],
        u32::from_be_bytes([head[3], head[4], head[5], head[6]]),
    );
    // A server without AMQP 0-9-1 answers with the protocol that it speaks.
    if head.starts_with(b"AMQP") {
        return Err("it speaks another version of AMQP".to_owned());
    }
    if len > MAX_FRAME {
        return Err(format!("a frame of {len} bytes"));
    }
    let end = 7 + len as usize;
    if read.len() <= end {
        return Ok(None);
    }
    if read[end] != END {
        return Err("a frame that does not end where it should".to_owned());
    }
    let payload = read[7..end].to_vec();
    read.drain(..=end);
    Ok(Some(Frame { kind, payload }))
}

pub(super) fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(END);
}

/// The arguments of a method that is sent.
pub(super) struct Args(Vec<u8>);

impl Args {
    pub(super) fn of((class, method): Method) -> Self {
        let mut args = class.to_be_bytes().to_vec();
        args.extend_from_slice(&method.to_be_bytes());
        Self(args)
    }

    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(super) fn short(mut self, number: u16) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn long_long(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Text of at most 255 bytes, which the caller has checked.
    pub(super) fn text(mut self, text: &str) -> Self {
        let text = &text.as_bytes()[..text.len().min(255)];
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text);
        self
    }

    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut own = self.long(bytes.len() as u32);
        own.0.extend_from_slice(bytes);
        own
    }

    pub(super) fn take(self) -> Vec<u8> {
        self.0
    }
}

/// Returns what the client tells of itself: that the server shall say if it ends a consumer, and why it refuses a user.
pub(super) fn client_properties() -> Vec<u8> {
    let mut capabilities = Vec::new();
    for name in ["consumer_cancel_notify", "authentication_failure_close"] {
        capabilities.push(name.len() as u8);
        capabilities.extend_from_slice(name.as_bytes());
        capabilities.extend_from_slice(b"t\x01");
    }
    let mut table = b"\x0ccapabilitiesF".to_vec();
    table.extend_from_slice(&(capabilities.len() as u32).to_be_bytes());
    table.extend_from_slice(&capabilities);
    table
}

/// Returns the method of a frame.
pub(super) fn method(payload: &[u8]) -> Option<Method> {
    let mut read = Reader(payload);
    Some((read.short()?, read.short()?))
}

/// Reads the arguments of a method. Everything is `None` behind the end.
pub(super) struct Reader<'p>(pub(super) &'p [u8]);

impl<'p> Reader<'p> {
    fn take(&mut self, len: usize) -> Option<&'p [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(super) fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn long(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn long_long(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let len = self.byte()?;
        let text = self.take(len.into())?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_waits_for_its_last_byte_and_leaves_what_is_behind_it() {
        let mut whole = Vec::new();
        put_frame(&mut whole, METHOD, 1, b"\0\x3c\0\x50rest");
        for cut in 0..whole.len() {
            let mut read = whole[..cut].to_vec();
            assert!(matches!(take_frame(&mut read), Ok(None)), "{cut}");
        }
        let mut read = whole.clone();
        read.extend_from_slice(b"next");
        let frame = take_frame(&mut read).ok().flatten();
        let payload = frame.map(|frame| frame.payload).unwrap_or_default();
        assert_eq!(method(&payload), Some(ACK));
        assert_eq!(read, b"next");
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for input in [
            &b"AMQP\0\0\x09\x01"[..],
            b"\x01\0\0\xff\xff\xff\xff",
            b"\x01\0\0\0\0\0\0x",
        ] {
            assert!(take_frame(&mut input.to_vec()).is_err(), "{input:?}");
        }
    }

    #[test]
    fn arguments_end_where_they_end() {
        let args = Args::of(OPEN)
            .text("/")
            .byte(7)
            .short(1)
            .long(2)
            .long_long(3)
            .take();
        let mut read = Reader(&args[4..]);
        assert_eq!(read.text().as_deref(), Some("/"));
        assert_eq!((read.byte(), read.short()), (Some(7), Some(1)));
        assert_eq!((read.long(), read.long_long()), (Some(2), Some(3)));
        assert_eq!((read.byte(), read.text()), (None, None));
        assert_eq!(Reader(b"\x05abc").text(), None);
    }

    proptest! {
        #[test]
        fn frames_are_read_however_they_are_cut(
            frames in collection::vec((any::<u8>(), any::<u16>(), collection::vec(any::<u8>(), 0..60)), 0..8),
            piece in 1..40_usize,
        ) {
            // A frame does not begin as the protocol does.
            let frames: Vec<_> = frames.into_iter().filter(|(kind, ..)| *kind != b'A').collect();
            let mut wire = Vec::new();
            for (kind, channel, payload) in &frames {
                put_frame(&mut wire, *kind, *channel, payload);
            }
            let (mut read, mut found) = (Vec::new(), Vec::new());
            for piece in wire.chunks(piece) {
                read.extend_from_slice(piece);
                while let Some(frame) = take_frame(&mut read).map_err(TestCaseError::fail)? {
                    found.push((frame.kind, frame.payload));
                }
            }
            let expected: Vec<_> = frames.into_iter().map(|(kind, _, payload)| (kind, payload)).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(read.is_empty());
        }

        #[test]
        fn no_input_is_too_odd(input in collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(END)], 0..200)) {
            let mut read = input.clone();
            while let Ok(Some(frame)) = take_frame(&mut read) {
                let mut args = Reader(&frame.payload);
                let _ = (method(&frame.payload), args.text(), args.long_long(), args.text());
            }
            prop_assert!(read.len() <= input.len());
        }
    }
}
