//! A codec that is one of several, for connections that speak different protocols.

/// Makes a codec that is one of several, and its frame.
///
/// One handler then serves connections that speak different protocols: each connection has the codec that
/// [`EventHandler::codec`](crate::EventHandler::codec) chose for it, or that [`Conn::switch`](crate::Conn::switch) has
/// put in its place since. [`Peek`](crate::codec::Peek) looks at the first bytes to choose by them.
///
/// The first enum is the codec, the second its frame. Each `impl` names an item that can be sent, and the variants that
/// encode it. It fails on a connection that has another codec, with
/// [`FrameError::OtherCodec`](crate::codec::FrameError::OtherCodec).
///
/// # Examples
///
/// ```
/// use epicycle::codec::{self, LengthField, Lines};
/// use epicycle::{Action, Conn, ConnInfo, EventHandler};
///
/// codec::one_of! {
///     /// A line protocol for people, and messages for programs.
///     pub enum Protocol {
///         Text(Lines),
///         Messages(LengthField),
///     }
///     /// A frame of either.
///     #[derive(Debug)]
///     pub enum ProtocolFrame;
///     impl Encode<&[u8]> for Text | Messages;
/// }
///
/// struct Echo;
///
/// impl EventHandler for Echo {
///     type Codec = Protocol;
///     type Session = ();
///
///     fn codec(&mut self, info: &ConnInfo<'_>) -> Protocol {
///         match info.label() {
///             "text" => Lines::new().into(),
///             _ => LengthField::default().into(),
///         }
///     }
///
///     fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
///         Some(())
///     }
///
///     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: ProtocolFrame<'_>) -> Action {
///         match frame {
///             ProtocolFrame::Text(line) => conn.send(line).into(),
///             ProtocolFrame::Messages(message) => conn.send(message).into(),
///         }
///     }
/// }
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __one_of {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$variant_meta:meta])* $variant:ident($codec:ty) ),+ $(,)?
        }
        $(#[$frame_meta:meta])*
        $frame_vis:vis enum $frame:ident;
        $( impl Encode<$item:ty> for $($by:ident)|+; )*
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $( $(#[$variant_meta])* #[allow(missing_docs)] $variant($codec), )+
        }

        $(#[$frame_meta])*
        $frame_vis enum $frame<'a> {
            $( #[allow(missing_docs)] $variant(<$codec as $crate::codec::Codec>::Frame<'a>), )+
        }

        $(
            impl ::core::convert::From<$codec> for $name {
                fn from(codec: $codec) -> Self {
                    $name::$variant(codec)
                }
            }
        )+

        impl $crate::codec::Codec for $name {
            type Frame<'a> = $frame<'a>;

            const CONVERSES: bool = $( <$codec as $crate::codec::Codec>::CONVERSES )||+;

            fn converses(&self) -> bool {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::converses(codec), )+
                }
            }

            #[inline]
            fn decode<'a>(
                &mut self,
                src: &'a mut [u8],
            ) -> ::core::result::Result<$crate::codec::Decoded<$frame<'a>>, $crate::codec::FrameError> {
                match self {
                    $( $name::$variant(codec) => {
                        $crate::codec::Codec::decode(codec, src).map(|decoded| decoded.map($frame::$variant))
                    } )+
                }
            }

            fn decode_eof<'a>(
                &mut self,
                src: &'a mut [u8],
            ) -> ::core::result::Result<$crate::codec::Decoded<$frame<'a>>, $crate::codec::FrameError> {
                match self {
                    $( $name::$variant(codec) => {
                        $crate::codec::Codec::decode_eof(codec, src).map(|decoded| decoded.map($frame::$variant))
                    } )+
                }
            }

            #[inline]
            fn take_cost(&mut self) -> usize {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::take_cost(codec), )+
                }
            }

            #[inline]
            fn poll_output(&mut self, dst: &mut $crate::Outbox<'_>) {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::poll_output(codec, dst), )+
                }
            }

            fn close_notice(
                &mut self,
                cause: $crate::codec::CloseCause<'_>,
                dst: &mut $crate::Outbox<'_>,
            ) {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::close_notice(codec, cause, dst), )+
                }
            }

            fn refused_status(&self) -> ::core::option::Option<u16> {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::refused_status(codec), )+
                }
            }

            fn is_open_ended(&self) -> bool {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::is_open_ended(codec), )+
                }
            }

            fn begin_drain(&mut self) {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::begin_drain(codec), )+
                }
            }

            fn backpressure(&self) -> $crate::codec::Backpressure {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::backpressure(codec), )+
                }
            }

            fn response_timeout(&self) -> ::core::option::Option<::core::time::Duration> {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::response_timeout(codec), )+
                }
            }

            #[inline]
            fn stage(&self) -> $crate::codec::Stage {
                match self {
                    $( $name::$variant(codec) => $crate::codec::Codec::stage(codec), )+
                }
            }
        }

        $(
            impl $crate::codec::Encode<$item> for $name {
                fn encode(
                    &mut self,
                    item: $item,
                    dst: &mut $crate::Outbox<'_>,
                ) -> ::core::result::Result<(), $crate::codec::FrameError> {
                    match self {
                        $( $name::$by(codec) => $crate::codec::Encode::encode(codec, item, dst), )+
                        #[allow(unreachable_patterns)]
                        _ => ::core::result::Result::Err($crate::codec::FrameError::OtherCodec {
                            expected: ::core::stringify!($($by)|+),
                        }),
                    }
                }
            }
        )*
    };
}

#[doc(inline)]
pub use __one_of as one_of;
