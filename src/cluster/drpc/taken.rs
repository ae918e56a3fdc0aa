use super::MAX_CHANNEL;
use super::wire::{Reader, text};
use crate::cluster::Error;

/// A user that a gate hands over to another one, as the answer to Take has it.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::drpc::Taken;
///
/// let bytes = Taken::encode(7, ["news"], [&b"\0\0\0\x05\0\0\x01\0\0"[..]])?;
/// let taken = Taken::read(&bytes)?;
/// assert_eq!(taken.uid(), 7);
/// assert!(taken.channels().eq(["news"]));
/// assert_eq!(taken.pushes().count(), 1);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    bytes: &'a [u8],
    uid: i64,
    channels: u16,
    /// The channels, and behind them the pushes.
    lists: &'a [u8],
}

impl<'a> Taken<'a> {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidMessage`] if the bytes are too short, or a channel is not UTF-8.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut body = Reader::new(bytes);
        let (uid, channels) = (body.i64()?, body.u16()?);
        let lists = body.rest();
        let mut body = Reader::new(lists);
        for _ in 0..channels {
            channel(&mut body)?;
        }
        while !body.is_empty() {
            push(&mut body)?;
        }
        Ok(Self {
            bytes,
            uid,
            channels,
            lists,
        })
    }

    /// Writes a user with its channels, and the packets that its client has missed, in their order.
    ///
    /// # Errors
    ///
    /// Returns [`Error::TooLarge`] if there are more than 65,535 channels, or one has more than [`MAX_CHANNEL`] bytes.
    pub fn encode<'c>(
        uid: i64,
        channels: impl IntoIterator<Item = &'c str>,
        pushes: impl IntoIterator<Item = &'c [u8]>,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = uid.to_be_bytes().to_vec();
        bytes.extend([0; 2]);
        let mut count = 0_usize;
        for name in channels {
            let len = u8::try_from(name.len())
                .map_err(|_| too_large("channel's name", name.len(), MAX_CHANNEL))?;
            bytes.push(len);
            bytes.extend_from_slice(name.as_bytes());
            count += 1;
        }
        let count = u16::try_from(count)
            .map_err(|_| too_large("list of channels", count, u16::MAX.into()))?;
        bytes[8..10].copy_from_slice(&count.to_be_bytes());
        for packet in pushes {
            let len = u32::try_from(packet.len())
                .map_err(|_| too_large("packet", packet.len(), u32::MAX as usize))?;
            bytes.extend(len.to_be_bytes());
            bytes.extend_from_slice(packet);
        }
        Ok(bytes)
    }

    /// Returns the user.
    pub fn uid(&self) -> i64 {
        self.uid
    }

    /// Returns the channels of its connection.
    pub fn channels(&self) -> impl Iterator<Item = &'a str> {
        let mut body = Reader::new(self.lists);
        // They were checked.
        (0..self.channels).map_while(move |_| channel(&mut body).ok())
    }

    /// Returns the packets that its client has missed.
    pub fn pushes(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut body = Reader::new(self.lists);
        for _ in 0..self.channels {
            let _ = channel(&mut body);
        }
        std::iter::from_fn(move || push(&mut body).ok())
    }

    pub(in crate::cluster) fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

fn channel<'a>(body: &mut Reader<'a>) -> Result<&'a str, Error> {
    let len = body.u8()?;
    text(body.take(len.into())?)
}

fn push<'a>(body: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let len = body.u32()?;
    body.take(len as usize)
}

fn too_large(what: &'static str, len: usize, max: usize) -> Error {
    Error::TooLarge { what, len, max }
}
