use super::encode::{CONTROL, HEARTBEAT, Head};
use super::options::SIZE;
use super::{Control, EncodedPacket, Heartbeat, Packet, PacketFrame, PacketOptions};
use crate::buf::outbox::Outbox;
use crate::codec::{ByteOrder, Codec, Decoded, Encode, FrameError};

/// The highest number of sizes of 0 in a row that [`PacketCodec`] skips.
pub const MAX_EMPTY_IN_ROW: u8 = 99;

/// Cuts a byte stream into packets, and encodes packets.
///
/// A frame is at most [`max_packet`](PacketOptions::max_packet) long. A longer one is refused as soon as its size has arrived,
/// and so is one that is shorter than its head as soon as its header has arrived. Sizes of 0 are frames; 100 of them in a row
/// are an error.
///
/// It sends nothing by itself: whether a heartbeat is answered is the handler's business.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::packet::{Heartbeat, PacketCodec, PacketFrame, PacketOptions};
/// use epicycle::codec::{Codec, Decoded};
///
/// let mut codec = PacketCodec::new(PacketOptions::default());
/// let heartbeat = PacketFrame::Heartbeat(Heartbeat { time: None });
/// assert_eq!(codec.decode(&mut *b"\0\0\0\x01\x80".to_vec())?, Decoded::Frame { frame: heartbeat, consumed: 5 });
/// // 2 GiB are refused at once.
/// assert!(codec.decode(&mut *b"\x80\0\0\0".to_vec()).is_err());
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PacketCodec {
    options: PacketOptions,
    /// The number of sizes of 0 since the last frame of another kind.
    empty_in_row: u8,
    /// The length of the last frame.
    len: usize,
}

impl PacketCodec {
    /// Returns a codec of this format.
    pub fn new(options: PacketOptions) -> Self {
        Self {
            options,
            empty_in_row: 0,
            len: 0,
        }
    }

    /// Returns the format.
    pub fn options(&self) -> &PacketOptions {
        &self.options
    }

    /// Returns the length of the last frame that was decoded.
    #[inline]
    pub(in crate::cluster) fn frame_len(&self) -> usize {
        self.len
    }
}

impl Codec for PacketCodec {
    type Frame<'a> = PacketFrame<'a>;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<PacketFrame<'a>>, FrameError> {
        let len = match self.options.measure(src)? {
            Measure::NeedMore(at_least) => return Ok(Decoded::NeedMore { at_least }),
            Measure::Len(len) => len,
        };
        self.len = len;
        if len == SIZE {
            if self.empty_in_row == MAX_EMPTY_IN_ROW {
                return Err(FrameError::Malformed {
                    what: "100 packets of size 0 in a row",
                });
            }
            self.empty_in_row += 1;
            return Ok(Decoded::Frame {
                frame: PacketFrame::Empty,
                consumed: SIZE,
            });
        }
        self.empty_in_row = 0;
        Ok(Decoded::Frame {
            frame: self.options.frame(&src[..len])?,
            consumed: len,
        })
    }
}

impl PacketOptions {
    /// Decodes a message that is one packet, such as one of WebSocket.
    ///
    /// # Errors
    ///
    /// Returns [`FrameError::TooLong`] if the size is above the limit, and [`FrameError::Malformed`] if the message has another
    /// length than its size tells, or is no packet.
    ///
    /// # Examples
    ///
    /// ```
    /// use epicycle::cluster::packet::{PacketFrame, PacketOptions};
    ///
    /// let options = PacketOptions::default();
    /// assert!(matches!(options.decode_message(b"\0\0\0\x06\0\0\x01\0\0a")?, PacketFrame::Packet { .. }));
    /// assert!(options.decode_message(b"\0\0\0\x06\0\0\x01\0\0ab").is_err());
    /// # Ok::<(), epicycle::codec::FrameError>(())
    /// ```
    pub fn decode_message<'a>(&self, message: &'a [u8]) -> Result<PacketFrame<'a>, FrameError> {
        match self.measure(message)? {
            Measure::Len(SIZE) if message.len() == SIZE => Ok(PacketFrame::Empty),
            Measure::Len(len) if len == message.len() => self.frame(message),
            _ => Err(FrameError::Malformed {
                what: "a message whose length is not that of its packet",
            }),
        }
    }

    /// Returns the length of the first packet in the input, `size` included, if all of it is there.
    #[inline]
    fn measure(&self, src: &[u8]) -> Result<Measure, FrameError> {
        let Some(size) = src.first_chunk::<SIZE>() else {
            return Ok(Measure::NeedMore(SIZE));
        };
        let size = match self.byte_order() {
            ByteOrder::Big => u32::from_be_bytes(*size),
            ByteOrder::Little => u32::from_le_bytes(*size),
        };
        // Heartbeats with a time are allowed even if the options allow no packet of that length.
        let longest = (self.head() + self.max_data()).max(9);
        if size as usize > longest {
            return Err(FrameError::TooLong {
                len: SIZE as u64 + u64::from(size),
                max: SIZE + longest,
            });
        }
        let len = SIZE + size as usize;
        if len == SIZE {
            return Ok(Measure::Len(SIZE));
        }
        let Some(header) = src.get(SIZE) else {
            return Ok(Measure::NeedMore(SIZE + 1));
        };
        if header & HEARTBEAT == 0 {
            if len < SIZE + self.head() {
                return Err(FrameError::Malformed {
                    what: "a packet shorter than its head",
                });
            }
            if len > self.max_packet() {
                return Err(FrameError::TooLong {
                    len: len as u64,
                    max: self.max_packet(),
                });
            }
        }
        Ok(if src.len() < len {
            Measure::NeedMore(len)
        } else {
            Measure::Len(len)
        })
    }

    /// Decodes a packet that is whole and not of size 0.
    #[inline]
    fn frame<'a>(&self, whole: &'a [u8]) -> Result<PacketFrame<'a>, FrameError> {
        let (header, rest) = (whole[SIZE], &whole[SIZE + 1..]);
        if header & HEARTBEAT != 0 {
            let time = <[u8; 8]>::try_from(rest).ok();
            let time = time.map(|time| match self.byte_order() {
                ByteOrder::Big => i64::from_be_bytes(time),
                ByteOrder::Little => i64::from_le_bytes(time),
            });
            return Ok(PacketFrame::Heartbeat(Heartbeat { time }));
        }
        let (route, rest) = rest.split_at(self.route_bytes());
        let (seq, data) = rest.split_at(self.seq_bytes());
        let (route, seq) = (self.signed(route), self.signed(seq));
        if header == CONTROL {
            let control = Control::decode(route.into(), self.byte_order(), data)?;
            return Ok(PacketFrame::Control(control));
        }
        let packet = Packet { route, seq, data };
        Ok(PacketFrame::Packet { packet, whole })
    }

    #[inline]
    fn signed(&self, bytes: &[u8]) -> i32 {
        let is_big = self.byte_order() == ByteOrder::Big;
        match *bytes {
            [byte] => i32::from(byte as i8),
            [a, b] if is_big => i16::from_be_bytes([a, b]).into(),
            [a, b] => i16::from_le_bytes([a, b]).into(),
            [a, b, c, d] if is_big => i32::from_be_bytes([a, b, c, d]),
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }
}

/// The length of the first packet in the input.
enum Measure {
    /// All of it is there: so many bytes.
    Len(usize),
    /// So many bytes are needed before it can be told, or before it is complete.
    NeedMore(usize),
}

impl Encode<Packet<'_>> for PacketCodec {
    #[inline]
    fn encode(&mut self, packet: Packet<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let head: Head = self.options.packet_head(&packet)?;
        let head = head.as_bytes();
        let len = head.len() + packet.data.len();
        dst.put_with(len, |room| {
            room[..head.len()].copy_from_slice(head);
            room[head.len()..].copy_from_slice(packet.data);
            len
        });
        Ok(())
    }
}

impl Encode<EncodedPacket> for PacketCodec {
    #[inline]
    fn encode(&mut self, packet: EncodedPacket, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        dst.put_shared(packet.into_bytes());
        Ok(())
    }
}

impl Encode<Control<'_>> for PacketCodec {
    fn encode(&mut self, control: Control<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        dst.put(self.options.encode_control(&control)?.as_bytes());
        Ok(())
    }
}

impl Encode<Heartbeat> for PacketCodec {
    #[inline]
    fn encode(&mut self, heartbeat: Heartbeat, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        dst.put(self.options.heartbeat_bytes(heartbeat).as_bytes());
        Ok(())
    }
}
