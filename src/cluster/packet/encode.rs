use std::fmt;

use bytes::Bytes;

use super::options::SIZE;
use super::{Control, Heartbeat, Packet, PacketFrame, PacketOptions};
use crate::cluster::Error;
use crate::codec::{ByteOrder, FrameError};
use crate::rpc::wire::Sink;

/// The header of a heartbeat.
pub(super) const HEARTBEAT: u8 = 0x80;
/// The header of a control packet.
pub(super) const CONTROL: u8 = 0x01;

/// A packet in its encoded form, for many receivers: a clone shares the bytes.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::packet::{Packet, PacketOptions};
///
/// let options = PacketOptions::default();
/// let news = options.encode(&Packet { route: 7, seq: 0, data: &[b'x'; 1000] })?;
/// let for_another = news.clone();
/// assert_eq!(news.as_bytes().as_ptr(), for_another.as_bytes().as_ptr());
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedPacket(Bytes);

impl EncodedPacket {
    /// Takes the bytes of a whole packet, `size` included, as another server sent them.
    ///
    /// # Errors
    ///
    /// Returns the error of [`PacketOptions::decode_message`].
    pub fn from_wire(options: &PacketOptions, bytes: Bytes) -> Result<Self, FrameError> {
        match options.decode_message(&bytes)? {
            PacketFrame::Empty => Err(FrameError::Malformed {
                what: "a packet of size 0",
            }),
            _ => Ok(Self(bytes)),
        }
    }

    /// Returns the bytes, `size` included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the bytes, `size` included, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for EncodedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedPacket")
            .field("len", &self.0.len())
            .finish_non_exhaustive()
    }
}

impl PacketOptions {
    pub(in crate::cluster) fn check_route(&self, route: i32) -> Result<(), Error> {
        let bytes = self.route_bytes();
        match fits(route, bytes) {
            true => Ok(()),
            false => Err(Error::RouteOverflow { route, bytes }),
        }
    }

    /// Encodes a packet. If `seq` has no bytes, the packet's `seq` is left out.
    ///
    /// # Errors
    ///
    /// Returns [`Error::RouteOverflow`] or [`Error::SeqOverflow`] if the number does not fit into its bytes, and
    /// [`Error::TooLarge`] if the data is longer than [`max_data`](Self::max_data).
    pub fn encode(&self, packet: &Packet<'_>) -> Result<EncodedPacket, Error> {
        let mut bytes = Vec::with_capacity(SIZE + self.head() + packet.data.len());
        self.encode_into(packet, &mut bytes)?;
        Ok(EncodedPacket(bytes.into()))
    }

    /// Appends an encoded packet to `dst`.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode). Then nothing has been appended.
    ///
    /// # Examples
    ///
    /// ```
    /// use epicycle::cluster::packet::{Packet, PacketOptions};
    ///
    /// let (options, mut dst) = (PacketOptions::default(), Vec::new());
    /// options.encode_into(&Packet { route: 1, seq: 0, data: b"a" }, &mut dst)?;
    /// assert!(options.encode_into(&Packet { route: 40_000, seq: 0, data: b"b" }, &mut dst).is_err());
    /// assert_eq!(dst, b"\0\0\0\x06\0\0\x01\0\0a");
    /// # Ok::<(), epicycle::cluster::Error>(())
    /// ```
    pub fn encode_into(&self, packet: &Packet<'_>, dst: &mut impl Sink) -> Result<(), Error> {
        let head = self.packet_head(packet)?;
        dst.put(head.as_bytes());
        dst.put(packet.data);
        Ok(())
    }

    /// Appends an encoded packet, whose data `put` appends. After an error, `dst` ends with a part of it.
    pub(in crate::cluster) fn encode_with(
        &self,
        (route, seq): (i32, i32),
        dst: &mut Vec<u8>,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let begin = dst.len();
        dst.resize(begin + SIZE + self.head(), 0);
        put(dst)?;
        let (head, data) = dst[begin..].split_at_mut(SIZE + self.head());
        let packet = Packet { route, seq, data };
        head.copy_from_slice(self.packet_head(&packet)?.as_bytes());
        Ok(())
    }

    /// Encodes a heartbeat.
    pub fn encode_heartbeat(&self, heartbeat: Heartbeat) -> EncodedPacket {
        let bytes = self.heartbeat_bytes(heartbeat);
        EncodedPacket(Bytes::copy_from_slice(bytes.as_bytes()))
    }

    /// Encodes a control packet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::TooLarge`] if its fields are longer than [`max_data`](Self::max_data).
    pub fn encode_control(&self, control: &Control<'_>) -> Result<EncodedPacket, Error> {
        let mut fields = Vec::new();
        control.put_fields(self.byte_order(), &mut fields);
        let head = self.head_of(CONTROL, control.route(), 0, fields.len())?;
        let mut bytes = Vec::with_capacity(head.len + fields.len());
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&fields);
        Ok(EncodedPacket(bytes.into()))
    }

    #[inline]
    pub(super) fn packet_head(&self, packet: &Packet<'_>) -> Result<Head, Error> {
        self.head_of(0, packet.route, packet.seq, packet.data.len())
    }

    pub(super) fn heartbeat_bytes(&self, heartbeat: Heartbeat) -> Head {
        let (mut head, order) = (Head::new(), self.byte_order());
        let size = if heartbeat.time.is_some() { 9 } else { 1 };
        head.put(order, size, SIZE);
        head.put(order, HEARTBEAT.into(), 1);
        if let Some(time) = heartbeat.time {
            head.put(order, time, 8);
        }
        head
    }

    fn head_of(&self, header: u8, route: i32, seq: i32, data: usize) -> Result<Head, Error> {
        if data > self.max_data() {
            return Err(Error::TooLarge {
                what: "packet's data",
                len: data,
                max: self.max_data(),
            });
        }
        self.check_route(route)?;
        if self.seq_bytes() > 0 && !fits(seq, self.seq_bytes()) {
            let bytes = self.seq_bytes();
            return Err(Error::SeqOverflow { seq, bytes });
        }
        let (mut head, order) = (Head::new(), self.byte_order());
        head.put(order, (self.head() + data) as i64, SIZE);
        head.put(order, header.into(), 1);
        head.put(order, route.into(), self.route_bytes());
        head.put(order, seq.into(), self.seq_bytes());
        Ok(head)
    }
}

/// Returns true if the number can be written in so many bytes.
#[inline]
fn fits(value: i32, bytes: usize) -> bool {
    match bytes {
        1 => i8::try_from(value).is_ok(),
        2 => i16::try_from(value).is_ok(),
        _ => true,
    }
}

/// The bytes in front of a packet's data, or a heartbeat.
#[derive(Clone, Copy)]
pub(super) struct Head {
    bytes: [u8; 13],
    len: usize,
}

impl Head {
    #[inline]
    fn new() -> Self {
        Self {
            bytes: [0; 13],
            len: 0,
        }
    }

    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Appends the lower `width` bytes of a number.
    #[inline]
    fn put(&mut self, order: ByteOrder, value: i64, width: usize) {
        let room = &mut self.bytes[self.len..self.len + width];
        match order {
            ByteOrder::Big => room.copy_from_slice(&value.to_be_bytes()[8 - width..]),
            ByteOrder::Little => room.copy_from_slice(&value.to_le_bytes()[..width]),
        }
        self.len += width;
    }
}
