use super::{Codec, Decoded, Encode, FrameError};
use crate::buf::outbox::Outbox;
use crate::buf::ring::MAX_CAPACITY;
use crate::error::Error;

/// Frames that announce their length in a field of 1, 2, 3, 4 or 8 bytes.
///
/// The default is a big-endian field of 4 bytes that counts the payload after it. A frame is that payload, of at most
/// 1 MiB. [`builder`](Self::builder) describes the header of almost any other binary protocol:
///
/// ```text
///  offset bytes   length bytes     the rest
/// +-------------+----------------+---------------+
/// |             |  length field  |               |    frame length = field + adjustment + offset + length,
/// +-------------+----------------+---------------+    less `length` when includes_length is set
/// '------ header ----------------'
/// '- strip -------'- what react gets ------------'
/// ```
///
/// The frame length counts the whole frame from its first byte, including the stripped bytes. It is checked against
/// `max_frame` as soon as the header has arrived.
///
/// # Sending
///
/// The same description is used to encode. The item is the frame without its length field: the codec writes the first
/// `offset` bytes of the item in front of the field, and the rest after it. The field gets the value from which the
/// decoder computes exactly that frame, so no option applies to one direction only. The peer's decoder then returns the
/// frame without its first `strip` bytes:
///
/// | `strip` | The peer's `react` gets |
/// |---|---|
/// | `offset + length`, the default | the item without its first `offset` bytes, so with an `offset` of 0 the item |
/// | 0 | the item with the length field inserted after its first `offset` bytes |
///
/// An item is refused if the decoder would refuse its frame, or if the field cannot hold its length.
///
/// # Coming from netty
///
/// The parameters are those of `LengthFieldBasedFrameDecoder`. Use its adjustment unchanged, without `includes_length`.
/// `LengthFieldPrepender` takes the adjustment with the opposite sign; this codec uses the decoder's sign for both
/// directions.
///
/// # Examples
///
/// ```
/// use epicycle::codec::{Codec, Decoded, LengthField, encode_to_vec};
///
/// let mut codec = LengthField::default();
/// let mut input = *b"\0\0\0\x02hi\0\0\x10\0....";
/// assert_eq!(codec.decode(&mut input)?, Decoded::Frame { frame: &b"hi"[..], consumed: 6 });
/// assert_eq!(codec.decode(&mut input[6..])?, Decoded::NeedMore { at_least: 4100 });
/// assert_eq!(encode_to_vec(&mut codec, "hi")?, b"\0\0\0\x02hi");
///
/// // Two bytes of message type, then a 4-byte length that counts the whole frame.
/// let mut typed = LengthField::builder().offset(2).adjustment(-6).strip(0).build()?;
/// assert_eq!(encode_to_vec(&mut typed, b"\xCA\xFEhi")?, b"\xCA\xFE\0\0\0\x08hi");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct LengthField {
    /// The length of the whole frame minus the value of the field.
    surplus: i64,
    offset: u32,
    /// The offset of the first byte after the length field.
    header: u32,
    strip: u32,
    /// The length of the longest frame that is both allowed and possible with this field.
    max: u32,
    order: ByteOrder,
}

/// The byte order of a length field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Most significant byte first: network byte order.
    #[default]
    Big,
    /// Least significant byte first.
    Little,
}

impl LengthField {
    /// The default of `max_frame` minus the length of the header: 1 MiB.
    pub const DEFAULT_MAX_REST: usize = 1 << 20;

    /// Returns a builder with the values of [`LengthField::default`].
    pub fn builder() -> LengthFieldBuilder {
        LengthFieldBuilder {
            offset: 0,
            length: 4,
            adjustment: 0,
            includes_length: false,
            strip: None,
            order: ByteOrder::Big,
            max_frame: None,
        }
    }

    #[cold]
    fn refuse(&self, field: u64, len: Option<u64>) -> FrameError {
        let what = match len {
            _ if i64::try_from(field).is_err() => "a negative length",
            Some(len) if len > self.max.into() => return self.too_long(len),
            Some(len) if len >= self.header.into() => {
                "a frame shorter than what is stripped off it"
            }
            _ => "a length smaller than that of the header",
        };
        FrameError::Malformed { what }
    }

    #[cold]
    fn too_long(&self, len: u64) -> FrameError {
        FrameError::TooLong {
            len,
            max: self.max as usize,
        }
    }
}

impl Default for LengthField {
    /// A 4-byte big-endian length, stripped off, and payloads of at most 1 MiB.
    fn default() -> Self {
        Self {
            surplus: 4,
            offset: 0,
            header: 4,
            strip: 4,
            max: 4 + Self::DEFAULT_MAX_REST as u32,
            order: ByteOrder::Big,
        }
    }
}

impl Codec for LengthField {
    type Frame<'a> = &'a [u8];
    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        let Some(field) = src.get(self.offset as usize..self.header as usize) else {
            return Ok(Decoded::NeedMore {
                at_least: self.header as usize,
            });
        };
        let field = self.order.read(field);
        let allowed = u64::from(self.header.max(self.strip))..=u64::from(self.max);
        let len = match field.checked_add_signed(self.surplus) {
            Some(len) if allowed.contains(&len) => len as usize,
            len => return Err(self.refuse(field, len)),
        };
        Ok(match src.get(self.strip as usize..len) {
            Some(frame) => Decoded::Frame {
                frame,
                consumed: len,
            },
            None => Decoded::NeedMore { at_least: len },
        })
    }
}

impl<T: AsRef<[u8]>> Encode<T> for LengthField {
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let item = item.as_ref();
        let width = (self.header - self.offset) as usize;
        let len = item.len() as u64 + width as u64;
        if len > self.max.into() {
            return Err(self.too_long(len));
        }
        let Some((front, rest)) = item.split_at_checked(self.offset as usize) else {
            return Err(FrameError::Malformed {
                what: "an item to send lacks the bytes that go in front of its length field",
            });
        };
        let field = match len.checked_sub_signed(self.surplus) {
            Some(field) if len >= self.strip.into() => field,
            _ => {
                return Err(FrameError::Malformed {
                    what: "an item to send is shorter than any frame of this protocol",
                });
            }
        };
        if !front.is_empty() {
            dst.put(front);
        }
        match self.order {
            ByteOrder::Big => dst.put(&field.to_be_bytes()[8 - width..]),
            ByteOrder::Little => dst.put(&field.to_le_bytes()[..width]),
        }
        dst.put(rest);
        Ok(())
    }
}

impl ByteOrder {
    #[inline]
    fn read(self, field: &[u8]) -> u64 {
        // A special case for speed: most protocols use four bytes, which take one load.
        if let &[a, b, c, d] = field {
            return match self {
                ByteOrder::Big => u32::from_be_bytes([a, b, c, d]).into(),
                ByteOrder::Little => u32::from_le_bytes([a, b, c, d]).into(),
            };
        }
        let append = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        match self {
            ByteOrder::Big => field.iter().fold(0, append),
            ByteOrder::Little => field.iter().rev().fold(0, append),
        }
    }
}

/// Describes a [`LengthField`] protocol; made by [`LengthField::builder`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing until `build` is called"]
pub struct LengthFieldBuilder {
    offset: usize,
    length: usize,
    adjustment: i64,
    includes_length: bool,
    strip: Option<usize>,
    order: ByteOrder,
    max_frame: Option<usize>,
}

impl LengthFieldBuilder {
    /// Sets the number of bytes in front of the length field. Default: 0.
    pub fn offset(mut self, bytes: usize) -> Self {
        self.offset = bytes;
        self
    }

    /// Sets the width of the length field in bytes: 1, 2, 3, 4 or 8. Default: 4.
    pub fn length(mut self, bytes: usize) -> Self {
        self.length = bytes;
        self
    }

    /// Sets the number to add to the field's value to get the number of bytes after the field. Default: 0.
    ///
    /// It is positive if the field does not count some bytes after it, such as a second part of the header. It is
    /// negative if the field counts bytes that come before its end.
    pub fn adjustment(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self
    }

    /// Sets whether the field's value counts the field itself, in both directions. Default: no.
    ///
    /// It has the same effect as an [`adjustment`](Self::adjustment) that is lower by the field's width. Use one of the
    /// two.
    pub fn includes_length(mut self, yes: bool) -> Self {
        self.includes_length = yes;
        self
    }

    /// Sets the number of bytes to strip from the start of a frame. Default: `offset + length`, the header.
    pub fn strip(mut self, bytes: usize) -> Self {
        self.strip = Some(bytes);
        self
    }

    /// Sets the byte order of the length field. Default: [`ByteOrder::Big`].
    pub fn byte_order(mut self, order: ByteOrder) -> Self {
        self.order = order;
        self
    }

    /// Sets the maximum length of a frame in bytes, including the header and the stripped bytes. Default: `offset +
    /// length` and 1 MiB.
    ///
    /// An unfinished frame is kept in memory, so this is also the memory that a peer can make a connection hold.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = Some(bytes);
        self
    }

    /// Builds the codec.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Option`] if the field's width is not supported, if `max_frame` is more than 1 GiB or less than
    /// the header or `strip`, if no value of the field makes a frame that is allowed, or if `adjustment` repeats
    /// `includes_length`.
    pub fn build(self) -> Result<LengthField, Error> {
        let (offset, width) = (self.offset, self.length);
        let largest = match width {
            1..=4 => (1 << (8 * width)) - 1,
            8 => i64::MAX,
            _ => {
                let problem =
                    format!("a field of {width} bytes is not supported; 1, 2, 3, 4 and 8 are");
                return bad("length", problem);
            }
        };
        let header = offset.saturating_add(width);
        let max = self
            .max_frame
            .unwrap_or(header.saturating_add(LengthField::DEFAULT_MAX_REST));
        if max > MAX_CAPACITY {
            let problem =
                format!("frames of {max} bytes cannot be buffered; at most {MAX_CAPACITY} can");
            return bad("max_frame", problem);
        }
        let strip = self.strip.unwrap_or(header);
        let shortest = header.max(strip);
        if shortest > max {
            let problem = format!(
                "{max} bytes hold no frame; the header has {header} and strip takes {strip}, \
                 so it must be {shortest} or more"
            );
            return bad("max_frame", problem);
        }
        let uncounted = if self.includes_length { offset } else { header };
        let surplus = self.adjustment.saturating_add(uncounted as i64);
        if self.includes_length && surplus < 0 {
            let problem = format!(
                "{} with includes_length makes the field count more than the whole frame; \
                 includes_length already takes off the {width} bytes of the field, so use one of them",
                self.adjustment,
            );
            return bad("adjustment", problem);
        }
        let reachable = largest.saturating_add(surplus);
        if surplus > max as i64 || reachable < shortest as i64 {
            let problem = format!(
                "with {} a field of {width} bytes announces frames of {surplus} to {reachable} bytes, \
                 none of them between {shortest} and the max_frame of {max}",
                self.adjustment,
            );
            return bad("adjustment", problem);
        }
        Ok(LengthField {
            surplus,
            offset: offset as u32,
            header: header as u32,
            strip: strip as u32,
            max: reachable.min(max as i64) as u32,
            order: self.order,
        })
    }
}

fn bad<T>(name: &'static str, problem: String) -> Result<T, Error> {
    Err(Error::Option { name, problem })
}
