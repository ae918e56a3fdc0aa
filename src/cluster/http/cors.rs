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
        self.everybody().or_else(|| {
            let mut known = self.origins.iter().flatten();
            known.any(|known| known == origin).then_some(origin)
        })
    }

    /// Returns the value of it for a request of any origin, if all are let in.
    pub(super) fn everybody(&self) -> Option<&'static str> {
        self.origins.is_none().then_some("*")
    }
}
