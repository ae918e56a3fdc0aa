use crate::cluster::drpc::FrameCodec;
use crate::cluster::over_kcp::KcpCodec;
#[cfg(feature = "kcp")]
use crate::cluster::over_kcp::MayBeKcp;
use crate::cluster::packet::{EncodedPacket, PacketCodec};
use crate::codec;
use crate::http::ServerResponse;
use crate::ws;

codec::one_of! {
    /// The protocol of a connection of a gate.
    pub(super) enum Protocol {
        /// A client over TCP.
        Packets(PacketCodec),
        /// A client over WebSocket.
        Socket(ws::ServerCodec),
        /// A client over KCP.
        Kcp(KcpCodec),
        /// Another server.
        Link(FrameCodec),
    }
    /// A frame of either.
    pub(super) enum ProtocolFrame;
    impl Encode<EncodedPacket> for Packets;
    impl Encode<&ws::Prepared> for Socket;
    impl Encode<&[u8]> for Socket;
    impl Encode<ws::Accept<'_>> for Socket;
    impl Encode<ws::Close<'_>> for Socket;
    impl Encode<ServerResponse<'_>> for Socket;
}

#[cfg(feature = "kcp")]
impl MayBeKcp for Protocol {
    fn as_kcp(&mut self) -> Option<&mut KcpCodec> {
        match self {
            Protocol::Kcp(kcp) => Some(kcp),
            _ => None,
        }
    }
}
