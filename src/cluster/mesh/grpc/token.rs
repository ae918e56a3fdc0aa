//! The token by which callers show that they have the secret of the cluster.

use http::{HeaderMap, HeaderValue};
use tonic::Status as GrpcStatus;

use crate::cluster::Error;
use crate::cluster::drpc::Secret;

/// The metadata that has it. `authorization` is left to the services.
const NAME: &str = "epicycle-token";
/// It is derived from the secret for this purpose. Who reads it on the wire has not read the secret.
const PURPOSE: &[u8] = b"epicycle grpc";

/// The token of a cluster.
#[derive(Clone)]
pub(super) struct Token {
    secret: Secret,
    value: HeaderValue,
}

impl Token {
    pub(super) fn of(secret: &Secret) -> Result<Self, Error> {
        let value = HeaderValue::try_from(text(secret));
        let mut value = value.map_err(|error| Error::argument("secret", error.to_string()))?;
        // It is not printed, and not put into the tables of HTTP/2, whose sizes can tell it.
        value.set_sensitive(true);
        let secret = secret.clone();
        Ok(Self { secret, value })
    }

    /// Adds the token to a call.
    pub(super) fn show(&self, headers: &mut HeaderMap) {
        headers.insert(NAME, self.value.clone());
    }

    /// Takes the token out of a call, whose handler need not know it.
    pub(super) fn check(&self, headers: &mut HeaderMap) -> Result<(), GrpcStatus> {
        let shown = headers.remove(NAME);
        let shown = shown.and_then(|value| hex::decode(value.as_bytes()).ok());
        if shown.is_some_and(|shown| self.secret.is_derived(&shown, PURPOSE)) {
            return Ok(());
        }
        let problem = format!("the metadata {NAME} does not show the secret of the cluster");
        Err(GrpcStatus::unauthenticated(problem))
    }
}

/// Returns the token of a secret, as it is sent.
pub(super) fn text(secret: &Secret) -> String {
    hex::encode(secret.derive(PURPOSE))
}
