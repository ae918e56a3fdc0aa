use super::{Codec, Decoded, FrameError};

/// Shows what has arrived so far and consumes none of it, to choose a protocol by its first bytes.
///
/// A frame is all input that has arrived and that no earlier codec has taken. The handler either
/// [switches](crate::Conn::switch) to another codec, which receives the same bytes again, or waits: it is called again with
/// more. The [maximum frame](crate::Server::max_frame) and the [read timeout](crate::Server::read_timeout) bound the wait.
///
/// When the peer ends its stream, the input is shown once more. [`Conn::peer_has_shut_down`](crate::Conn::peer_has_shut_down)
/// then returns true: no more will arrive, so choose now.
///
/// ```
/// use epicycle::codec::{self, Lines, Peek, Raw};
/// use epicycle::{Action, Conn, ConnInfo, EventHandler};
///
/// codec::one_of! {
///     enum Protocol {
///         Peek(Peek),
///         Binary(Raw),
///         Text(Lines),
///     }
///     enum ProtocolFrame;
/// }
///
/// struct Sniffer;
///
/// impl EventHandler for Sniffer {
/// #   type Session = ();
///     type Codec = Protocol;
///
///     fn codec(&mut self, _info: &ConnInfo<'_>) -> Protocol {
///         Peek::new().into()
///     }
/// #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
///
///     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), frame: ProtocolFrame<'_>) -> Action {
///         match frame {
///             // No text begins with a zero byte.
///             ProtocolFrame::Peek([0, ..]) => conn.switch(Raw),
///             ProtocolFrame::Peek(_) => conn.switch(Lines::new()),
///             ProtocolFrame::Binary(bytes) => println!("{} bytes", bytes.len()),
///             ProtocolFrame::Text(line) => println!("a line of {} bytes", line.len()),
///         }
///         Action::Continue
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Peek {
    /// The number of bytes that the handler has seen.
    shown: usize,
    /// True once it has seen all input to the end of the stream.
    shown_last: bool,
}

impl Peek {
    /// Returns a codec that shows all input again each time more arrives.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Codec for Peek {
    type Frame<'a> = &'a [u8];

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        if src.len() <= self.shown {
            return Ok(Decoded::NeedMore {
                at_least: self.shown + 1,
            });
        }
        self.shown = src.len();
        Ok(Decoded::Frame {
            frame: src,
            consumed: 0,
        })
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        if self.shown_last {
            return Ok(Decoded::NeedMore {
                at_least: src.len() + 1,
            });
        }
        self.shown_last = true;
        Ok(Decoded::Frame {
            frame: src,
            consumed: 0,
        })
    }
}
