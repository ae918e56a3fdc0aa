//! HTTP whose error answers are JSON, as those of handlers, and whose answers pages of other origins may read.

use std::sync::Arc;

use super::cors::Cors;
use super::request::HttpError;
use crate::buf::outbox::Outbox;
use crate::codec::{Backpressure, CloseCause, Codec, Decoded, Encode, FrameError, Stage};
use crate::http::{HttpStreamCodec, Limits, RequestPart, ServerResponse, refusal};

/// The codec of the server's connections.
pub(super) struct FrontCodec {
    http: HttpStreamCodec,
    cors: Option<Arc<Cors>>,
    /// The value of `Access-Control-Allow-Origin` in the answer to the request under way.
    allowed: Option<Box<str>>,
}

impl FrontCodec {
    pub(super) fn new(limits: Limits, cors: Option<Arc<Cors>>) -> Self {
        Self {
            http: HttpStreamCodec::new(limits),
            cors,
            allowed: None,
        }
    }

    /// Returns true if the request under way comes from a page that is let in.
    pub(super) fn is_allowed(&self) -> bool {
        self.allowed.is_some()
    }
}

impl Codec for FrontCodec {
    type Frame<'a> = RequestPart<'a>;
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<RequestPart<'a>>, FrameError> {
        let decoded = self.http.decode(src)?;
        if let Decoded::Frame { frame, .. } = &decoded
            && let RequestPart::Head(request) = frame
            && let Some(cors) = &self.cors
        {
            self.allowed = cors.allowed(request.header("Origin")).map(Box::from);
        }
        Ok(decoded)
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        self.http.poll_output(dst);
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let Some((status, why)) = self.http.take_refusal(cause) else {
            return;
        };
        // The origin of a request whose head was refused is not known.
        let everybody = || self.cors.as_ref().and_then(|cors| cors.everybody());
        let mut headers = "Content-Type: application/json\r\n".to_owned();
        if let Some(origin) = self.allowed.as_deref().or_else(everybody) {
            headers += &format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n");
        }
        let error = HttpError::new(status.as_u16(), why);
        refusal(status, &headers, &error.json(), dst);
    }

    fn refused_status(&self) -> Option<u16> {
        self.http.refused_status()
    }

    fn is_open_ended(&self) -> bool {
        self.http.is_open_ended()
    }

    fn begin_drain(&mut self) {
        self.http.begin_drain();
    }

    fn backpressure(&self) -> Backpressure {
        self.http.backpressure()
    }

    fn stage(&self) -> Stage {
        self.http.stage()
    }
}

impl Encode<ServerResponse<'_>> for FrontCodec {
    fn encode(
        &mut self,
        response: ServerResponse<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        match &self.allowed {
            None => self.http.encode(response, dst),
            Some(origin) => {
                let response = response.header("Access-Control-Allow-Origin", &**origin);
                self.http.encode(response.header("Vary", "Origin"), dst)?;
                self.allowed = None;
                Ok(())
            }
        }
    }
}
