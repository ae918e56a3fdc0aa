use crate::cluster::packet::{EncodedPacket, PacketCodec};
use crate::codec;
use crate::ws;

codec::one_of! {
    /// The protocol that a gate speaks.
    pub(super) enum Spoken {
        Packets(PacketCodec),
        Socket(ws::ClientCodec),
    }
    /// A frame of either.
    pub(super) enum SpokenFrame;
    impl Encode<EncodedPacket> for Packets;
    impl Encode<&[u8]> for Socket;
    impl Encode<ws::Handshake> for Socket;
    impl Encode<ws::Close<'_>> for Socket;
}
