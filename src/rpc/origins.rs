//! The origins of pages in browsers that may send requests.

use crate::http::ServerRequest;

/// Pages of the requested host, and of others that are listed.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins {
    pub(super) listed: Vec<String>,
    pub(super) any: bool,
}

/// The page that sends a request may not do so.
pub(super) struct Foreign;

impl Origins {
    pub(super) fn list(&mut self, origins: impl IntoIterator<Item = impl Into<String>>) {
        self.listed.extend(origins.into_iter().map(Into::into));
    }

    /// Returns the origin of the page that sends a request, if it is another than the requested host.
    ///
    /// # Errors
    ///
    /// If pages of that origin are not served.
    pub(super) fn judge<'a>(
        &self,
        request: &ServerRequest<'a>,
    ) -> Result<Option<&'a [u8]>, Foreign> {
        let headers = request.headers();
        let mut origins = headers.get_all("origin");
        let Some(origin) = origins.next() else {
            // A browser that hides the origin of a page still says that it is another one.
            let site = headers.get("sec-fetch-site");
            let is_own = matches!(site, None | Some(b"same-origin" | b"none"));
            return (is_own || self.any).then_some(None).ok_or(Foreign);
        };
        if origins.next().is_some() {
            return Err(Foreign);
        }
        let place = memchr::memmem::find(origin, b"://").map(|at| &origin[at + 3..]);
        let is_own = match (place, request.host()) {
            (Some(place), Some(host)) => place.eq_ignore_ascii_case(host.as_bytes()),
            _ => false,
        };
        if is_own {
            return Ok(None);
        }
        let mut listed = self.listed.iter();
        let is_listed = listed.any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin));
        (is_listed || self.any)
            .then_some(Some(origin))
            .ok_or(Foreign)
    }
}
