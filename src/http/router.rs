use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::fields::is_token;
use crate::error::error_messages;

/// Maps a request's method and path to a value of type `T`: a handler function or a number, for example.
///
/// A pattern is a path in which `{name}` stands for one segment or the rest of one. A final `{*name}` stands for the
/// whole rest of the path, which must not be empty. `{{` and `}}` are literal braces. If several patterns match, the
/// most specific one wins, independent of the order in which they were added. Paths are matched as they were sent: an
/// escape is not a separator, and `/a` and `/a/` are two paths.
///
/// ```
/// use epicycle::http::{NoRoute, Router};
///
/// enum Page {
///     Home,
///     Item,
/// }
///
/// let mut router = Router::new();
/// router.add("GET", "/", Page::Home)?.add("GET", "/items/{id}", Page::Item)?;
///
/// let found = router.find("GET", "/items/42").map_err(|_| "no such page")?;
/// assert!(matches!(found.value, Page::Item));
/// assert_eq!(found.params.get("id"), Some("42"));
///
/// let refused = router.find("POST", "/").err();
/// assert_eq!(refused, Some(NoRoute::MethodNotAllowed { allow: "GET, HEAD".into() }));
/// assert_eq!(router.find("GET", "/nothing").err(), Some(NoRoute::NotFound));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Router<T> {
    /// From a path to an index into the routes.
    paths: matchit::Router<usize>,
    routes: Vec<Route<T>>,
}

/// A pattern, and its values by method.
#[derive(Clone, Debug)]
struct Route<T> {
    pattern: String,
    methods: Vec<(String, T)>,
}

/// The route found for a request's method and path.
#[derive(Debug)]
#[non_exhaustive]
pub struct Match<'r, 'p, T> {
    /// The value that was added for the route.
    pub value: &'r T,
    /// The parts of the path that match the pattern's names.
    pub params: Params<'r, 'p>,
}

/// The parts of a path that match a pattern's names.
#[derive(Clone, Debug)]
pub struct Params<'r, 'p>(matchit::Params<'r, 'p>);

impl<T> Router<T> {
    /// Returns a router without routes.
    pub fn new() -> Self {
        Self {
            paths: matchit::Router::new(),
            routes: Vec::new(),
        }
    }

    /// Adds a route. A route for `GET` also serves `HEAD`, unless `HEAD` has a route of its own.
    ///
    /// # Errors
    ///
    /// Returns a [`RouteError`] if the route is invalid, or conflicts with an existing one.
    pub fn add(&mut self, method: &str, pattern: &str, value: T) -> Result<&mut Self, RouteError> {
        if !is_token(method.as_bytes()) {
            return Err(RouteError::Method {
                method: method.into(),
            });
        }
        let known = self
            .routes
            .iter_mut()
            .find(|other| other.pattern == pattern);
        let methods = match known {
            Some(route) => &mut route.methods,
            None => {
                self.paths
                    .insert(pattern, self.routes.len())
                    .map_err(|error| RouteError::of(pattern, error))?;
                self.routes.push(Route {
                    pattern: pattern.into(),
                    methods: Vec::new(),
                });
                let end = self.routes.len() - 1;
                &mut self.routes[end].methods
            }
        };
        if methods.iter().any(|(other, _)| other == method) {
            return Err(RouteError::Taken {
                pattern: pattern.into(),
            });
        }
        methods.push((method.into(), value));
        Ok(self)
    }

    /// Finds the route of a request: see [`ServerRequest::method`](super::ServerRequest::method) and
    /// [`ServerRequest::path`](super::ServerRequest::path).
    ///
    /// # Errors
    ///
    /// Returns a [`NoRoute`], which distinguishes an unknown path from a method that is not allowed.
    pub fn find<'p>(&self, method: &str, path: &'p str) -> Result<Match<'_, 'p, T>, NoRoute> {
        let matched = self.paths.at(path).map_err(|_| NoRoute::NotFound)?;
        let route = &self.routes[*matched.value];
        let value = route.value(method).ok_or_else(|| route.allowed())?;
        Ok(Match {
            value,
            params: Params(matched.params),
        })
    }
}

impl<T> Route<T> {
    fn value(&self, method: &str) -> Option<&T> {
        let of = |method: &str| {
            let mut methods = self.methods.iter();
            methods.find(|(other, _)| other == method)
        };
        let found = of(method).or_else(|| of("GET").filter(|_| method == "HEAD"));
        found.map(|(_, value)| value)
    }

    #[cold]
    fn allowed(&self) -> NoRoute {
        let mut allow = Vec::new();
        for (method, _) in &self.methods {
            allow.push(method.as_str());
            if method == "GET" && !self.methods.iter().any(|(other, _)| other == "HEAD") {
                allow.push("HEAD");
            }
        }
        NoRoute::MethodNotAllowed {
            allow: allow.join(", "),
        }
    }
}

impl<'p> Params<'_, 'p> {
    /// Returns the part of the path for a name, as it was sent, with its escapes. Returns `None` if the pattern has no
    /// such name.
    pub fn get(&self, name: &str) -> Option<&'p str> {
        self.0.get(name)
    }

    /// Returns the part of the path for a name, with its escapes resolved. Returns `None` also if the result is not
    /// UTF-8. The result may contain anything: a slash, `..`, control characters.
    ///
    /// ```
    /// # let mut router = epicycle::http::Router::new();
    /// router.add("GET", "/hello/{name}", ())?;
    /// let params = router.find("GET", "/hello/Zo%C3%AB").map(|found| found.params);
    /// # let params = params.unwrap();
    /// assert_eq!(params.get("name"), Some("Zo%C3%AB"));
    /// assert_eq!(params.decoded("name").as_deref(), Some("Zoë"));
    /// # Ok::<(), epicycle::http::RouteError>(())
    /// ```
    pub fn decoded(&self, name: &str) -> Option<Cow<'p, str>> {
        percent_decode_str(self.get(name)?).decode_utf8().ok()
    }

    /// Returns all pairs of name and value, in the order of the path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'p str)> {
        self.0.iter()
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The reason why a request has no route.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoRoute {
    /// No pattern matches the path: a 404.
    NotFound,
    /// The path has no route for this method: a 405, whose answer must list the methods (RFC 9110, section 15.5.6).
    MethodNotAllowed {
        /// The value of the answer's `Allow` header.
        allow: String,
    },
}

error_messages! {
    NoRoute {
        NoRoute::NotFound => "there is nothing at this path",
        NoRoute::MethodNotAllowed { allow } => "the method is not allowed here; these are: {allow}",
    }
}

/// The reason why a route cannot be added.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// The method is not a token.
    Method {
        /// The method.
        method: String,
    },
    /// The pattern is invalid.
    Pattern {
        /// The pattern.
        pattern: String,
        /// The fault in the pattern.
        why: String,
    },
    /// The pattern matches the same paths as another one, under other names.
    Conflict {
        /// The pattern.
        pattern: String,
        /// The existing pattern.
        with: String,
    },
    /// A route for that method and pattern already exists.
    Taken {
        /// The pattern.
        pattern: String,
    },
}

impl RouteError {
    fn of(pattern: &str, error: matchit::InsertError) -> Self {
        let pattern = pattern.to_owned();
        match error {
            matchit::InsertError::Conflict { with } => RouteError::Conflict { pattern, with },
            error => RouteError::Pattern {
                pattern,
                why: error.to_string(),
            },
        }
    }
}

error_messages! {
    RouteError {
        RouteError::Method { method } => "{method:?} is not a method such as GET",
        RouteError::Pattern { pattern, why } => "the pattern {pattern:?}: {why}",
        RouteError::Conflict { pattern, with } =>
            "the pattern {pattern:?} matches what {with:?} does; use the same names",
        RouteError::Taken { pattern } => "there is a route for this method and {pattern:?} already",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[(&str, &str)]) -> Router<usize> {
        let mut router = Router::new();
        for (n, (method, pattern)) in routes.iter().enumerate() {
            router.add(method, pattern, n).expect("is a route");
        }
        router
    }

    #[test]
    fn the_pattern_that_says_more_wins() {
        let routes = [
            ("GET", "/{*rest}"),
            ("GET", "/items/{id}"),
            ("GET", "/items/new"),
        ];
        let router = router(&routes);
        for (path, wanted) in [("/items/new", 2), ("/items/7", 1), ("/items/7/parts", 0)] {
            assert_eq!(
                router.find("GET", path).map(|found| *found.value),
                Ok(wanted)
            );
        }
    }

    #[test]
    fn what_is_added_for_get_serves_head() {
        let mut router = router(&[("GET", "/a"), ("GET", "/b")]);
        router.add("HEAD", "/b", 2).expect("is a route");
        let value = |method, path| router.find(method, path).map(|found| *found.value);
        assert_eq!(value("HEAD", "/a"), Ok(0));
        assert_eq!(value("HEAD", "/b"), Ok(2));
        assert_eq!(value("GET", "/b"), Ok(1));
    }

    #[test]
    fn a_wrong_method_learns_the_right_ones() {
        let router = router(&[("PUT", "/a"), ("GET", "/a"), ("POST", "/b")]);
        for (path, wanted) in [("/a", "PUT, GET, HEAD"), ("/b", "POST")] {
            let allow = wanted.into();
            let refused = router.find("DELETE", path).err();
            assert_eq!(refused, Some(NoRoute::MethodNotAllowed { allow }));
        }
        // Methods are case-sensitive.
        assert!(router.find("get", "/a").is_err());
        assert!(router.find("HEAD", "/b").is_err());
    }

    #[test]
    fn params_are_raw_or_decoded() {
        let router = router(&[("GET", "/{user}/{file}.txt"), ("GET", "/all/of/{*it}")]);
        let params = router
            .find("GET", "/a%2Fb/%ff.txt")
            .expect("matches")
            .params;
        assert_eq!(params.get("user"), Some("a%2Fb"));
        assert_eq!(params.decoded("user").as_deref(), Some("a/b"));
        assert_eq!(params.get("file"), Some("%ff"));
        assert_eq!(params.decoded("file"), None);
        assert_eq!(params.get("other"), None);
        let all: Vec<_> = params.iter().collect();
        assert_eq!(all, [("user", "a%2Fb"), ("file", "%ff")]);
        let params = router.find("GET", "/all/of/x/y/").expect("matches").params;
        assert_eq!(params.get("it"), Some("x/y/"));
    }

    #[test]
    fn targets_that_are_no_paths_are_not_found() {
        let router = router(&[("GET", "/"), ("GET", "/{*rest}")]);
        for target in ["", "*", "a", "example.org:443"] {
            assert_eq!(router.find("GET", target).err(), Some(NoRoute::NotFound));
        }
        let empty = Router::<()>::default();
        assert_eq!(empty.find("GET", "/").err(), Some(NoRoute::NotFound));
    }

    #[test]
    fn a_slash_at_the_end_counts() {
        let router = router(&[("GET", "/a")]);
        assert_eq!(router.find("GET", "/a/").err(), Some(NoRoute::NotFound));
    }

    #[test]
    fn what_is_no_route_is_refused() {
        let mut router = router(&[("GET", "/{id}")]);
        let mut refusal = |method, pattern| {
            let added = router.add(method, pattern, 1).map(drop);
            added.expect_err("is refused").to_string()
        };
        let refusals = [
            refusal("GET /", "/a"),
            refusal("GET", "/{"),
            refusal("POST", "/{name}"),
            refusal("GET", "/{id}"),
        ];
        for (refusal, wanted) in refusals.iter().zip([
            "\"GET /\" is not a method such as GET",
            "the pattern \"/{\": ",
            "the pattern \"/{name}\" matches what \"/{id}\" does; use the same names",
            "there is a route for this method and \"/{id}\" already",
        ]) {
            assert!(refusal.starts_with(wanted), "{refusal}");
        }
        // A refused route leaves nothing behind.
        let allow = "GET, HEAD".into();
        let refused = router.find("POST", "/a").err();
        assert_eq!(refused, Some(NoRoute::MethodNotAllowed { allow }));
    }
}
