use crate::cluster::Error;
use crate::codec::ByteOrder;

/// The format of packets. Clients and gates must have the same.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::packet::PacketOptions;
/// use epicycle::codec::ByteOrder;
///
/// let options = PacketOptions::builder().byte_order(ByteOrder::Little).seq_bytes(4).build()?;
/// assert_eq!(options.max_packet(), 4 + 1 + 2 + 4 + 5000);
///
/// let error = PacketOptions::builder().route_bytes(3).build().unwrap_err();
/// assert!(error.to_string().contains("1, 2 or 4"));
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketOptions {
    byte_order: ByteOrder,
    route_bytes: u8,
    seq_bytes: u8,
    heartbeat_time: bool,
    max_data: u32,
}

impl PacketOptions {
    /// The default of `max_data`: 5,000 bytes.
    pub const DEFAULT_MAX_DATA: usize = 5000;

    /// The highest `max_data`: 16 MiB less 16 KiB, so that each packet fits into a frame between servers.
    pub const HIGHEST_MAX_DATA: usize = (16 << 20) - (16 << 10);

    /// Returns a builder with the values of [`PacketOptions::default`].
    pub fn builder() -> PacketOptionsBuilder {
        PacketOptionsBuilder {
            byte_order: ByteOrder::Big,
            route_bytes: 2,
            seq_bytes: 2,
            max_data: Self::DEFAULT_MAX_DATA,
            heartbeat_time: false,
        }
    }

    /// Returns the byte order of all numbers.
    pub fn byte_order(&self) -> ByteOrder {
        self.byte_order
    }

    /// Returns the width of `route`, in bytes.
    pub fn route_bytes(&self) -> usize {
        self.route_bytes.into()
    }

    /// Returns the width of `seq`, in bytes.
    pub fn seq_bytes(&self) -> usize {
        self.seq_bytes.into()
    }

    /// Returns the maximum length of a packet's data, in bytes.
    pub fn max_data(&self) -> usize {
        self.max_data as usize
    }

    /// Returns true if the heartbeats of a gate carry its time.
    pub fn heartbeat_time(&self) -> bool {
        self.heartbeat_time
    }

    /// Returns the maximum length of a whole packet in bytes, `size` included.
    pub fn max_packet(&self) -> usize {
        SIZE + self.head() + self.max_data()
    }

    pub(in crate::cluster) fn check_route_bytes(bytes: usize) -> Result<(), String> {
        match bytes {
            1 | 2 | 4 => Ok(()),
            _ => Err(format!(
                "a route of {bytes} bytes is not supported; use 1, 2 or 4"
            )),
        }
    }

    pub(in crate::cluster) fn check_seq_bytes(bytes: usize) -> Result<(), String> {
        match bytes {
            0 | 1 | 2 | 4 => Ok(()),
            _ => Err(format!(
                "a seq of {bytes} bytes is not supported; use 0, 1, 2 or 4"
            )),
        }
    }

    pub(in crate::cluster) fn check_max_data(bytes: usize) -> Result<(), String> {
        let highest = Self::HIGHEST_MAX_DATA;
        match bytes <= highest {
            true => Ok(()),
            false => Err(format!(
                "packets with {bytes} bytes of data do not fit between servers; use at most {highest}"
            )),
        }
    }

    /// Returns the length of header, route and seq.
    #[inline]
    pub(super) fn head(&self) -> usize {
        1 + self.route_bytes() + self.seq_bytes()
    }
}

/// The length of the size field.
pub(super) const SIZE: usize = 4;

impl Default for PacketOptions {
    /// Big-endian, a route of 2 bytes, a seq of 2 bytes, at most 5,000 bytes of data, heartbeats without time.
    fn default() -> Self {
        Self {
            byte_order: ByteOrder::Big,
            route_bytes: 2,
            seq_bytes: 2,
            heartbeat_time: false,
            max_data: Self::DEFAULT_MAX_DATA as u32,
        }
    }
}

/// Describes the format of packets; made by [`PacketOptions::builder`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing until `build` is called"]
pub struct PacketOptionsBuilder {
    byte_order: ByteOrder,
    route_bytes: usize,
    seq_bytes: usize,
    max_data: usize,
    heartbeat_time: bool,
}

impl PacketOptionsBuilder {
    /// Sets the byte order of all numbers. Default: [`ByteOrder::Big`].
    pub fn byte_order(mut self, order: ByteOrder) -> Self {
        self.byte_order = order;
        self
    }

    /// Sets the width of `route` in bytes: 1, 2 or 4. Default: 2.
    pub fn route_bytes(mut self, bytes: usize) -> Self {
        self.route_bytes = bytes;
        self
    }

    /// Sets the width of `seq` in bytes: 0, 1, 2 or 4. Default: 2. With 0 there are only pushes.
    pub fn seq_bytes(mut self, bytes: usize) -> Self {
        self.seq_bytes = bytes;
        self
    }

    /// Sets the maximum length of a packet's data, in bytes. Default: 5,000. Highest: 16 MiB less 16 KiB.
    ///
    /// An unfinished packet is kept in memory, so this is also the memory that a client can make a gate hold, less the head.
    pub fn max_data(mut self, bytes: usize) -> Self {
        self.max_data = bytes;
        self
    }

    /// Sets whether the heartbeats of a gate carry its time. Default: no.
    pub fn heartbeat_time(mut self, yes: bool) -> Self {
        self.heartbeat_time = yes;
        self
    }

    /// Builds the options.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if a width is not supported, or if `max_data` is too high.
    pub fn build(self) -> Result<PacketOptions, Error> {
        let bad = |name| move |problem| Error::argument(name, problem);
        let (route, seq, max) = (self.route_bytes, self.seq_bytes, self.max_data);
        PacketOptions::check_route_bytes(route).map_err(bad("route_bytes"))?;
        PacketOptions::check_seq_bytes(seq).map_err(bad("seq_bytes"))?;
        PacketOptions::check_max_data(max).map_err(bad("max_data"))?;
        Ok(PacketOptions {
            byte_order: self.byte_order,
            route_bytes: route as u8,
            seq_bytes: seq as u8,
            heartbeat_time: self.heartbeat_time,
            max_data: max as u32,
        })
    }
}
