use crate::cluster::over_kcp::KcpCodec;
#[cfg(feature = "kcp")]
use crate::cluster::over_kcp::MayBeKcp;
use crate::cluster::packet::{EncodedPacket, PacketCodec};
use crate::codec;
use crate::ws;

codec::one_of! {
    /// The protocol that a gate speaks.
    pub(super) enum Spoken {
        Packets(PacketCodec),
        Socket(ws::ClientCodec),
        Kcp(KcpCodec),
    }
    /// A frame of either.
    pub(super) enum SpokenFrame;
    impl Encode<EncodedPacket> for Packets;
    impl Encode<&[u8]> for Socket;
    impl Encode<ws::Handshake> for Socket;
    impl Encode<ws::Close<'_>> for Socket;
}

#[cfg(feature = "kcp")]
impl MayBeKcp for Spoken {
    fn as_kcp(&mut self) -> Option<&mut KcpCodec> {
        match self {
            Spoken::Kcp(kcp) => Some(kcp),
            _ => None,
        }
    }
}
