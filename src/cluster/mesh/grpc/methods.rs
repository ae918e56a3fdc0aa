//! The methods of services, and the calls that they get.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::oneshot;
use tonic::Status as GrpcStatus;
use tonic::metadata::MetadataMap;

use super::wire;
use crate::Bytes;
use crate::cluster::codec::{Codec, DecodeBody, EncodeBody};
use crate::rpc::wire::{Status, code};

/// The methods of a service.
pub struct GrpcMethods<'a> {
    service: String,
    methods: &'a mut HashMap<String, Method>,
}

/// A method. It decodes the argument, and encodes the result.
pub(super) type Method =
    Arc<dyn Fn(&GrpcCall, &[u8]) -> Result<Vec<u8>, Status> + Send + Sync + 'static>;

impl<'a> GrpcMethods<'a> {
    pub(super) fn new(service: &str, methods: &'a mut HashMap<String, Method>) -> Self {
        Self {
            service: service.to_owned(),
            methods,
        }
    }

    /// Adds a method. Its handler runs on a thread of its own, so it may wait. One of the same name takes the place of an earlier one.
    ///
    /// A handler that panics is answered with `INTERNAL`.
    pub fn call<A, R>(
        &mut self,
        name: &str,
        handler: impl Fn(&GrpcCall, A) -> Result<R, Status> + Send + Sync + 'static,
    ) where
        A: DecodeBody,
        R: EncodeBody,
    {
        let method = move |call: &GrpcCall, body: &[u8]| {
            let argument = call.codec.decode(body);
            let argument =
                argument.map_err(|error| Status::new(code::BAD_MESSAGE, error.to_string()))?;
            let result = handler(call, argument)?;
            let encoded = call.codec.encode(&result);
            encoded.map_err(|error| Status::new(code::INTERNAL_SERVER_ERROR, error.to_string()))
        };
        let path = format!("/{}/{name}", self.service);
        self.methods.insert(path, Arc::new(method));
    }
}

/// A call that a method gets.
pub struct GrpcCall {
    path: String,
    codec: Codec,
    metadata: MetadataMap,
    peer: Option<SocketAddr>,
    answer: oneshot::Sender<Result<Bytes, GrpcStatus>>,
}

impl GrpcCall {
    /// Returns a call, and the end at which its answer comes out.
    pub(super) fn new(
        path: String,
        codec: Codec,
        metadata: MetadataMap,
        peer: Option<SocketAddr>,
    ) -> (Self, oneshot::Receiver<Result<Bytes, GrpcStatus>>) {
        let (answer, answered) = oneshot::channel();
        let call = Self {
            path,
            codec,
            metadata,
            peer,
            answer,
        };
        (call, answered)
    }

    /// Returns the service and the method: `/math/add`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the codec of the argument and the result.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Returns a text of the metadata, by its name in lower case.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }

    /// Returns the address of the caller.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Returns true if nobody waits for the result any more: the caller has given up, or is gone.
    pub fn is_cancelled(&self) -> bool {
        self.answer.is_closed()
    }

    /// Carries the call out, unless nobody waits for it. A panic of the method drops it, which is an answer as well.
    pub(super) fn carry_out(self, method: &Method, body: &[u8]) {
        if self.is_cancelled() {
            return;
        }
        let result = method(&self, body);
        let result = result.map(Bytes::from);
        // The caller may be gone.
        let _ = self
            .answer
            .send(result.map_err(|status| wire::to_grpc(&status)));
    }
}

impl fmt::Debug for GrpcMethods<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcMethods")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for GrpcCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcCall")
            .field("path", &self.path)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
