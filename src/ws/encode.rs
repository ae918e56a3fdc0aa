//! What either side sends: one list for both codecs.

use super::client::ClientCodec;
use super::close::Close;
use super::header::Opcode;
use super::message::{Fragment, Message, Ping};
use super::server::ServerCodec;
use crate::buf::outbox::Outbox;
use crate::codec::{Encode, FrameError};

macro_rules! sends {
    ($codec:ty, $($item:ty => |$protocol:ident, $value:ident, $dst:ident| $send:expr;)*) => {
        $(impl Encode<$item> for $codec {
            #[inline]
            fn encode(&mut self, $value: $item, $dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                let $protocol = self.protocol()?;
                $send
            }
        })*
    };
}

macro_rules! both_send {
    ($($codec:ty),*) => {
        $(sends! { $codec,
            Message<'_> => |ws, message, dst| ws.send(message.opcode(), message.as_bytes(), dst);
            &Message<'_> => |ws, message, dst| ws.send(message.opcode(), message.as_bytes(), dst);
            &str => |ws, text, dst| ws.send(Opcode::Text, text.as_bytes(), dst);
            &String => |ws, text, dst| ws.send(Opcode::Text, text.as_bytes(), dst);
            String => |ws, text, dst| ws.send(Opcode::Text, text.as_bytes(), dst);
            &[u8] => |ws, bytes, dst| ws.send(Opcode::Binary, bytes, dst);
            &Vec<u8> => |ws, bytes, dst| ws.send(Opcode::Binary, bytes, dst);
            Vec<u8> => |ws, bytes, dst| ws.send(Opcode::Binary, &bytes, dst);
            Fragment<'_> => |ws, fragment, dst| ws.send_fragment(&fragment, dst);
            Ping<'_> => |ws, ping, dst| ws.send_ping(ping, dst);
            Close<'_> => |ws, close, dst| ws.send_close(close, dst);
        }

        impl<const N: usize> Encode<&[u8; N]> for $codec {
            #[inline]
            fn encode(&mut self, bytes: &[u8; N], dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                self.protocol()?.send(Opcode::Binary, bytes, dst)
            }
        })*
    };
}

both_send!(ServerCodec, ClientCodec);
