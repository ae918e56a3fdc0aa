//! Messages that a proxy passes on: what is received on one side becomes what is sent on the other.

use ::http::StatusCode;

#[cfg(feature = "gateway")]
use super::block::HeaderBlock;
use super::client;
use super::head::Framing;
use super::lines::tokens;
use super::parts::Extent;
use super::request::ServerRequest;
use super::response::{Body, ServerResponse};

impl<'a> ServerResponse<'a> {
    /// Returns the answer with which a proxy passes a received response on, without its headers. Add those with
    /// [`block`](Self::block). The `Date` among them is kept.
    ///
    /// Status and reason phrase are those of the response, which may be interim. The framing follows it as well: a body
    /// of known length stays that, and any other is [streamed](Self::streamed). Without a body, as for HEAD, 204 and
    /// 304, a length is announced if the origin announced it and it is allowed there. The answer to HEAD has the length
    /// that the origin has announced.
    ///
    /// If the response is not interim and changes no protocol, [`Chunk`](super::Chunk)s and an [`End`](super::End) or
    /// [`Trailers`](super::Trailers) must follow, even if it has no body. So the parts of a
    /// [`StreamCodec`](client::StreamCodec) can be passed on one by one.
    pub fn relayed(response: &client::ClientResponse<'a>) -> Self {
        let status = response.status();
        let mut relayed = ServerResponse::new(status);
        let reason = response.reason_bytes();
        if status.canonical_reason().map(str::as_bytes) != Some(reason) {
            relayed.reason = Some(reason);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let mut protocols = response.headers().get_all("upgrade").flat_map(tokens);
            let protocol = protocols.next().unwrap_or_default();
            relayed.upgrade = Some(str::from_utf8(protocol).unwrap_or_default());
            return relayed;
        }
        if status.is_informational() || response.is_upgrade() {
            return relayed;
        }
        relayed.body = match response.extent() {
            Extent::None => Body::Absent(response.content_length()),
            Extent::Length(len) => Body::Sized(len),
            Extent::Chunked | Extent::Eof => Body::Stream,
        };
        relayed.awaits_end = true;
        relayed
    }
}

#[cfg(feature = "gateway")]
impl HeaderBlock {
    /// Replaces all headers by copies of those of a response that a proxy passes on, as [`fill`](Self::fill) does with
    /// [`Headers::end_to_end`](super::Headers::end_to_end). The parser has found out which ones these are.
    pub(crate) fn fill_from_response(&mut self, response: &client::ClientResponse<'_>) {
        self.clear();
        let are_known = response.each_end_to_end(|lines| self.push_lines(lines));
        match are_known {
            true => self.note_date(response.has_date()),
            false => self.fill_end_to_end(response.headers(), |_| true),
        }
    }
}

impl<'a> client::ClientRequest<'a> {
    /// Returns the request with which a proxy passes a received request on to its origin, without its headers. Add
    /// those with [`block`](Self::block).
    ///
    /// The method is that of the request, and the target is sent as it was received. The target of a request in
    /// absolute form is sent in origin form, and its authority is the host (RFC 9112, section 3.2.2). A request of
    /// HTTP/1.0 may have no host: set [one](Self::host), else the request is refused with [`SendError::Host`](super::SendError::Host).
    ///
    /// The framing follows the request as well. [`Chunk`](super::Chunk)s and an [`End`](super::End) or
    /// [`Trailers`](super::Trailers) must follow, even if it has no body. So the parts of an
    /// [`HttpStreamCodec`](super::HttpStreamCodec) can be passed on one by one.
    pub fn relayed(request: &ServerRequest<'a>) -> Self {
        let host = request.host().unwrap_or_default();
        let target = match (request.method(), request.path_and_query()) {
            ("CONNECT", _) => request.target(),
            // The last proxy asks the server as a whole (RFC 9112, section 3.2.4).
            ("OPTIONS", "/")
                if request
                    .scheme()
                    .is_some_and(|_| !request.target().ends_with('/')) =>
            {
                "*"
            }
            (_, target) => target,
        };
        let mut relayed = client::ClientRequest::new(request.method(), host, target);
        // The host of a request may be empty. That of a request that is sent may not.
        relayed.is_line_checked = !host.is_empty();
        relayed.body = match request.framing() {
            Framing::None => Body::None,
            Framing::Length(len) => Body::Sized(len),
            Framing::Chunked => Body::Stream,
        };
        relayed.awaits_end = true;
        relayed
    }
}
