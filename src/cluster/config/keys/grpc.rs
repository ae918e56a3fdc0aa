//! The keys of `transport.grpc`.

use super::Effect::{self, Sets};
use super::{Keys, set};
use crate::cluster::config::GrpcConfig;

pub(super) const GRPC: Keys<GrpcConfig> = &[
    (
        "server.addr",
        Sets(|grpc, value| set(&mut grpc.addr, value.addr()?)),
    ),
    (
        "server.certFile",
        Sets(|grpc, value| set(&mut grpc.certificate.cert_file, value.path()?)),
    ),
    (
        "server.keyFile",
        Sets(|grpc, value| set(&mut grpc.certificate.key_file, value.path()?)),
    ),
    (
        "client.caFile",
        Sets(|grpc, value| set(&mut grpc.authorities, value.path()?)),
    ),
    (
        "client.serverName",
        Sets(|grpc, value| set(&mut grpc.server_name, value.optional()?)),
    ),
    (
        "server.expose",
        Effect::None("`cluster.mesh.expose` is the host that others dial"),
    ),
    ("client.certFile", Effect::None("due reads `caFile`")),
    (
        "client.dispatch",
        Effect::None("calls are spread by weight; `GrpcTransporter::balancer` sets another way"),
    ),
];
