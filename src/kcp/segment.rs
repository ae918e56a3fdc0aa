use super::InputError;

/// The length of the head of a segment.
pub(super) const HEAD: usize = 24;

/// The kind of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// It has data.
    Push,
    /// It acknowledges one segment with data.
    Ack,
    /// It asks for the window.
    AskWindow,
    /// It tells the window.
    TellWindow,
}

/// A segment: the head, and the data behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub(super) conv: u32,
    pub(super) command: Command,
    /// The number of segments for which the sender has room.
    pub(super) window: u16,
    /// The sender's clock in milliseconds. An acknowledgement has that of the segment.
    pub(super) ts: u32,
    pub(super) sn: u32,
    /// All numbers below it have arrived.
    pub(super) una: u32,
    pub(super) data: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Takes the first segment of a datagram. Returns it and the rest.
    pub(super) fn parse(datagram: &'a [u8]) -> Result<(Self, &'a [u8]), InputError> {
        let (head, rest) = datagram
            .split_first_chunk::<HEAD>()
            .ok_or(InputError::Malformed("a head that is cut off"))?;
        let [conv, kind, ts, sn, una, len] = head.as_chunks::<4>().0 else {
            return Err(InputError::Malformed("a head that is cut off"));
        };
        let [command, _fragment, window @ ..] = *kind;
        let command = match command {
            81 => Command::Push,
            82 => Command::Ack,
            83 => Command::AskWindow,
            84 => Command::TellWindow,
            _ => return Err(InputError::Malformed("an unknown command")),
        };
        let (data, rest) = rest
            .split_at_checked(u32::from_le_bytes(*len) as usize)
            .ok_or(InputError::Malformed(
                "a length beyond the end of the datagram",
            ))?;
        let segment = Self {
            conv: u32::from_le_bytes(*conv),
            command,
            window: u16::from_le_bytes(window),
            ts: u32::from_le_bytes(*ts),
            sn: u32::from_le_bytes(*sn),
            una: u32::from_le_bytes(*una),
            data,
        };
        Ok((segment, rest))
    }

    /// Returns the segments of a datagram, of which there is at least one. The first error is the last item.
    pub(super) fn all(datagram: &'a [u8]) -> impl Iterator<Item = Result<Self, InputError>> {
        let mut rest = Some(datagram);
        std::iter::from_fn(move || {
            let (segment, behind) = match Self::parse(rest.take()?) {
                Ok(parsed) => parsed,
                Err(error) => return Some(Err(error)),
            };
            rest = (!behind.is_empty()).then_some(behind);
            Some(Ok(segment))
        })
    }

    pub(super) fn len(&self) -> usize {
        HEAD + self.data.len()
    }

    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let command = match self.command {
            Command::Push => 81,
            Command::Ack => 82,
            Command::AskWindow => 83,
            Command::TellWindow => 84,
        };
        into.extend_from_slice(&self.conv.to_le_bytes());
        into.extend_from_slice(&[command, 0]);
        into.extend_from_slice(&self.window.to_le_bytes());
        for number in [self.ts, self.sn, self.una, self.data.len() as u32] {
            into.extend_from_slice(&number.to_le_bytes());
        }
        into.extend_from_slice(self.data);
    }
}

/// Returns how far `a` is ahead of `b`, on the circle of numbers.
pub(super) fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}
