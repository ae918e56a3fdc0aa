//! HTTP/1.1. All requests are the same.

use std::sync::Arc;

use epicycle::codec::encode_to_vec;
use epicycle::http::client::{ClientCodec, ClientRequest, ClientResponse};
use epicycle::http::{HeaderBlock, Limits};
use epicycle::{Conn, WriteError};

use super::{Meaning, Wire, payload};
use crate::load::driver::Driver;
use crate::load::plan::Plan;
use crate::load::tally::Failure;

#[derive(Clone)]
pub(crate) struct Http {
    asked: Arc<Asked>,
}

struct Asked {
    host: String,
    path: String,
    headers: HeaderBlock,
    /// Empty for a GET.
    body: Box<[u8]>,
}

/// The longest body of an answer, in bytes. It is held in memory.
const LONGEST_BODY: u64 = 256 << 20;

impl Http {
    /// # Errors
    ///
    /// If the host, the path or a header cannot be sent.
    pub(crate) fn new(plan: &Plan) -> Result<Self, String> {
        let mut headers = HeaderBlock::new();
        for (name, value) in &plan.headers {
            let with = headers.with(name, value.as_bytes());
            headers = with.map_err(|error| format!("--header {name}: {error}"))?;
        }
        let asked = Asked {
            host: plan.target.host.clone(),
            path: plan.target.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers,
            body: payload(plan.size),
        };
        encode_to_vec(&mut ClientCodec::default(), asked.request())
            .map_err(|error| format!("the request cannot be sent: {error}"))?;
        Ok(Self {
            asked: Arc::new(asked),
        })
    }
}

impl Asked {
    #[inline]
    fn request(&self) -> ClientRequest<'_> {
        let request = match &*self.body {
            [] => ClientRequest::get(&self.host, &self.path),
            body => ClientRequest::post(&self.host, &self.path, body),
        };
        request.block(&self.headers)
    }
}

impl Wire for Http {
    type Codec = ClientCodec;
    type State = ();

    fn codec(&self) -> ClientCodec {
        ClientCodec::new(Limits::default().max_body(LONGEST_BODY))
    }

    fn greet(&self, _conn: &mut Conn<'_, Driver<Self>>) -> Result<bool, WriteError> {
        Ok(true)
    }

    #[inline]
    fn ask(&self, conn: &mut Conn<'_, Driver<Self>>, (): &mut ()) -> Result<(), WriteError> {
        conn.send(self.asked.request())
    }

    #[inline]
    fn interpret(
        &self,
        _: &mut Conn<'_, Driver<Self>>,
        (): &mut (),
        response: ClientResponse<'_>,
    ) -> Meaning {
        match response.status() {
            status if status.is_success() => Meaning::Right(1),
            status => Meaning::Wrong(Failure::Status(status.as_u16())),
        }
    }
}
