//! The protocols under test, and their properties.

use epicycle::codec::Decoded;
use epicycle::rpc::wire::{
    Dialect, Filters, JsonProtocol, Limits, Message, PbProtocol, Protocol, RawProtocol, WireError,
};

/// A protocol in one of its forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Raw(Dialect),
    RawDetected(Dialect),
    Json(Dialect),
    Pb(Dialect),
    WsJson(Dialect),
    WsPb(Dialect),
}

impl Form {
    pub(crate) fn all() -> impl Iterator<Item = Form> {
        [Dialect::V4_0, Dialect::V4_1]
            .into_iter()
            .flat_map(|dialect| {
                [
                    Form::Raw(dialect),
                    Form::RawDetected(dialect),
                    Form::Json(dialect),
                    Form::Pb(dialect),
                    Form::WsJson(dialect),
                    Form::WsPb(dialect),
                ]
            })
    }

    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Form::Raw(dialect)
            | Form::RawDetected(dialect)
            | Form::Json(dialect)
            | Form::Pb(dialect)
            | Form::WsJson(dialect)
            | Form::WsPb(dialect) => dialect,
        }
    }

    /// What sends and receives.
    pub(crate) fn protocol(self) -> Box<dyn Protocol> {
        match self {
            Form::RawDetected(_) => Box::new(RawProtocol::detect()),
            _ => self.sender(),
        }
    }

    /// What sends: it has to know its dialect.
    pub(crate) fn sender(self) -> Box<dyn Protocol> {
        match self {
            Form::Raw(dialect) | Form::RawDetected(dialect) => Box::new(RawProtocol::new(dialect)),
            Form::Json(dialect) => Box::new(JsonProtocol::new(dialect)),
            Form::Pb(dialect) => Box::new(PbProtocol::new(dialect)),
            Form::WsJson(dialect) => Box::new(JsonProtocol::new(dialect).in_websocket()),
            Form::WsPb(dialect) => Box::new(PbProtocol::new(dialect).in_websocket()),
        }
    }

    /// Whether messages are cut out of a stream.
    pub(crate) fn is_stream(self) -> bool {
        !matches!(self, Form::WsJson(_) | Form::WsPb(_))
    }

    pub(crate) fn encode(self, message: &Message<'_>) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::new();
        self.sender()
            .encode(message, &Filters::standard(), &mut bytes)?;
        Ok(bytes)
    }
}

/// The message that `bytes` begin with, which is complete, and how long it is.
pub(crate) fn decode(form: Form, bytes: &[u8]) -> Result<(Message<'_>, usize), WireError> {
    decode_within(form, bytes, &Limits::default())
}

pub(crate) fn decode_within<'a>(
    form: Form,
    bytes: &'a [u8],
    limits: &Limits,
) -> Result<(Message<'a>, usize), WireError> {
    let mut protocol = form.protocol();
    match protocol.decode(bytes, limits, &Filters::standard())? {
        Decoded::Frame { frame, consumed } => Ok((frame, consumed)),
        other => panic!("{form:?}: {other:?} of {bytes:02x?}"),
    }
}

/// Feeds the beginnings of a message, up to `step` bytes longer each: none of them is a message or an error, and what
/// is asked for is never more than there will be.
pub(crate) fn check_cuts(form: Form, whole: &[u8], step: usize) {
    let mut protocol = form.protocol();
    for cut in (0..whole.len()).step_by(step) {
        let decoded = protocol.decode(&whole[..cut], &Limits::default(), &Filters::standard());
        let Ok(Decoded::NeedMore { at_least }) = decoded else {
            panic!("{form:?}: {decoded:?} of the first {cut} bytes of {whole:02x?}");
        };
        assert!(at_least > cut && at_least <= whole.len(), "{form:?}, {cut}");
    }
}
