//! Requests of pages of other origins.

/// The origins whose pages may send requests and read the answers.
#[derive(Clone, Debug)]
pub struct Cors {
    /// `None` is all.
    origins: Option<Vec<String>>,
}

impl Cors {
    /// Returns one that lets pages of all origins in, without cookies.
    pub fn any() -> Self {
        Self { origins: None }
    }

    /// Returns one that lets pages of these origins in, `https://example.org` for example, without cookies.
    pub fn origins<I: IntoIterator<Item: Into<String>>>(origins: I) -> Self {
        let origins = origins.into_iter().map(Into::into).collect();
        Self {
            origins: Some(origins),
        }
    }

    /// Returns the value of `Access-Control-Allow-Origin` for a request, if it has one.
    pub(super) fn allowed<'a>(&self, origin: Option<&'a str>) -> Option<&'a str> {
        let origin = origin?;
        match &self.origins {
            None => Some("*"),
            Some(origins) => origins
                .iter()
                .any(|known| known == origin)
                .then_some(origin),
        }
    }
}
