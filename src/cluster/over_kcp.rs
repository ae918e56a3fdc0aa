//! Packets over KCP: the codec of a UDP session.

use std::time::Instant;

use super::packet::{PacketCodec, PacketOptions};
use crate::codec::{Codec, Decoded, FrameError};
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Conn, ConnTimer, EventHandler};
use crate::kcp::{InputError, Kcp, KcpOptions};

/// The connection over KCP of a UDP session. A frame is a datagram, for [`receive`].
pub(super) struct KcpCodec {
    /// None before the first datagram.
    kcp: Option<Box<Kcp>>,
    /// True if this side sends the first datagram.
    begins: bool,
    /// The number of the connection if this side begins it, and otherwise the secret that proves the address of the peer.
    number: u32,
    options: KcpOptions,
    pub(super) packets: PacketCodec,
    /// The beginning of a packet whose rest has not arrived.
    beginning: Vec<u8>,
    /// The timer of the next flush, and when it is due.
    timer: Option<(Instant, ConnTimer)>,
    /// True while the packets of the peer wait.
    pub(super) is_paused: bool,
    /// True if it closes as soon as the peer has acknowledged everything.
    is_closing: bool,
}

/// A codec that may be that of KCP.
pub(super) trait MayBeKcp {
    fn as_kcp(&mut self) -> Option<&mut KcpCodec>;
}

/// The reason why a connection has to end.
pub(super) enum End {
    /// The peer has begun another connection from the same address.
    Replaced,
    /// The peer acknowledges nothing any more.
    Dead,
}

impl KcpCodec {
    /// Returns the codec of a client's session at a gate, with a number that nobody can guess.
    pub(super) fn server(options: KcpOptions, packets: PacketOptions, secret: [u8; 4]) -> Self {
        Self {
            kcp: None,
            begins: false,
            number: u32::from_le_bytes(secret),
            options,
            packets: PacketCodec::new(packets),
            beginning: Vec::new(),
            timer: None,
            is_paused: false,
            is_closing: false,
        }
    }

    /// Returns the codec of a client that begins a connection.
    pub(super) fn client(options: KcpOptions, packets: PacketOptions) -> Self {
        Self {
            begins: true,
            ..Self::server(options, packets, rand::random())
        }
    }

    /// Takes the input up to here that was not handled: the beginning of a packet, and the next bytes of the peer.
    pub(super) fn take_input(&mut self) -> Option<Vec<u8>> {
        if self.is_closing {
            return None;
        }
        let more = self.kcp.as_mut()?.recv();
        if self.beginning.is_empty() {
            return more;
        }
        let mut input = std::mem::take(&mut self.beginning);
        match more {
            Some(more) => input.extend_from_slice(&more),
            None => {
                // Nothing has come behind what was looked at before, unless packets waited in it.
                if let Ok(Decoded::NeedMore { .. }) = self.packets.decode(&mut input) {
                    self.beginning = input;
                    return None;
                }
            }
        }
        Some(input)
    }

    /// Keeps the input behind the packets that were handled.
    pub(super) fn keep(&mut self, mut input: Vec<u8>, handled: usize) {
        input.drain(..handled);
        self.beginning = input;
    }

    /// Returns true if the peer is known to be at its address.
    pub(super) fn is_proved(&self) -> bool {
        self.kcp.as_ref().is_some_and(|kcp| kcp.is_proved())
    }

    /// Returns the bytes that wait for the peer.
    pub(super) fn queued(&self) -> usize {
        self.kcp.as_ref().map_or(0, |kcp| kcp.queued())
    }
}

impl Codec for KcpCodec {
    type Frame<'a> = &'a mut [u8];

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a mut [u8]>, FrameError> {
        let consumed = src.len();
        let frame = src;
        Ok(Decoded::Frame { frame, consumed })
    }
}

/// Returns true if a datagram may open a session.
pub(super) fn opens(datagram: &[u8]) -> bool {
    Kcp::opening(datagram).is_some()
}

/// Takes a datagram. What it brings is [input](KcpCodec::take_input); then the connection has to be [settled](settle).
///
/// # Errors
///
/// [`End`]. Datagrams that are malformed are dropped.
pub(super) fn receive<H>(conn: &mut Conn<'_, H>, datagram: &[u8]) -> Result<(), End>
where
    H: EventHandler<Codec: MayBeKcp>,
{
    let now = conn.now();
    let Some(codec) = conn.codec_mut().as_kcp() else {
        return Ok(());
    };
    let kcp = match &mut codec.kcp {
        Some(kcp) => kcp,
        None => {
            let Some(conv) = Kcp::opening(datagram).filter(|_| !codec.begins) else {
                return Ok(());
            };
            let kcp = Kcp::server(conv, &codec.options, now, codec.number);
            codec.kcp.insert(Box::new(kcp))
        }
    };
    match kcp.input(datagram, now) {
        Err(InputError::OtherConv(_)) if !codec.begins && Kcp::opening(datagram).is_some() => {
            Err(End::Replaced)
        }
        Err(error) => {
            log::debug!(target: "epicycle::cluster", "a datagram of {} is dropped: {error}", conn.peer_addr());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Queues a packet, and sends it if the windows allow it.
pub(super) fn send<H>(conn: &mut Conn<'_, H>, packet: &[u8], timer: u64) -> Result<(), WriteError>
where
    H: EventHandler<Codec: MayBeKcp>,
{
    let now = conn.now();
    let Some(codec) = conn.codec_mut().as_kcp() else {
        return Err(WriteError::Closed);
    };
    if codec.kcp.is_none() && codec.begins {
        let kcp = Kcp::client(codec.number, &codec.options, now);
        codec.kcp = Some(Box::new(kcp));
    }
    let Some(kcp) = codec.kcp.as_mut().filter(|_| !codec.is_closing) else {
        return Err(WriteError::Closed);
    };
    if let Err(full) = kcp.send(packet) {
        let (queued, limit) = (full.queued, codec.options.most_queued());
        return Err(WriteError::Full { queued, limit });
    }
    // A dead peer is noticed by the timer.
    let _ = settle(conn, timer);
    Ok(())
}

/// Sends what is due, and sets a timer with the token `timer` for what is due later. It has to call this again.
///
/// # Errors
///
/// [`End::Dead`].
pub(super) fn settle<H>(conn: &mut Conn<'_, H>, timer: u64) -> Result<(), End>
where
    H: EventHandler<Codec: MayBeKcp>,
{
    let now = conn.now();
    // Apart from the connection, which is written to.
    let codec = conn.codec_mut().as_kcp();
    let Some(mut kcp) = codec.and_then(|codec| codec.kcp.take()) else {
        return Ok(());
    };
    kcp.flush(now, |datagram| {
        // It is sent again, as one that the network has lost.
        if let Err(error) = conn.write(datagram) {
            log::debug!(target: "epicycle::cluster", "a datagram to {} is lost: {error}", conn.peer_addr());
        }
    });
    let (due, is_dead) = (kcp.check(), kcp.is_dead());
    let Some(codec) = conn.codec_mut().as_kcp() else {
        return Ok(());
    };
    codec.kcp = Some(kcp);
    let set = codec.timer.take_if(|(at, _)| *at <= now);
    let is_sooner = |due: &Instant| codec.timer.as_ref().is_none_or(|(at, _)| due < at);
    if let Some(due) = due.filter(is_sooner) {
        if let Some((_, late)) = set.or(codec.timer.take()) {
            conn.cancel_timer(late);
        }
        let set = conn.set_timer(due.saturating_duration_since(now), timer);
        if let Some(codec) = conn.codec_mut().as_kcp() {
            codec.timer = Some((due, set));
        }
    }
    let is_drained =
        (conn.codec_mut().as_kcp()).is_some_and(|codec| codec.is_closing && codec.queued() == 0);
    if is_drained {
        conn.close();
    }
    match is_dead {
        true => Err(End::Dead),
        false => Ok(()),
    }
}

/// Closes the connection once the peer has acknowledged everything, or is dead. It takes no more until then.
pub(super) fn close<H>(conn: &mut Conn<'_, H>)
where
    H: EventHandler<Codec: MayBeKcp>,
{
    match conn.codec_mut().as_kcp() {
        Some(codec) if codec.queued() > 0 => codec.is_closing = true,
        _ => conn.close(),
    }
}
