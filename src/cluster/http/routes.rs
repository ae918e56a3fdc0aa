//! Routes, their groups and their middleware.

use std::fmt;
use std::sync::Arc;

use utoipa::ToSchema;
use utoipa::openapi::{RefOr, schema::Schema};

use super::request::{HttpError, HttpReply, HttpRequest};
use crate::cluster::Error;
use crate::http::Router;

type Handler = dyn Fn(&mut HttpRequest) -> Result<HttpReply, HttpError> + Send + Sync;
type Middleware =
    dyn Fn(&mut HttpRequest, HttpNext<'_>) -> Result<HttpReply, HttpError> + Send + Sync;

/// The routes of a server or a group.
pub struct HttpRoutes {
    prefix: String,
    middleware: Vec<Arc<Middleware>>,
    pub(super) routes: Vec<HttpRoute>,
}

/// A route, and its description for OpenAPI.
pub struct HttpRoute {
    pub(super) method: String,
    pub(super) pattern: String,
    middleware: Vec<Arc<Middleware>>,
    handler: Arc<Handler>,
    pub(super) description: Description,
}

/// The description of a route.
#[derive(Default)]
pub(super) struct Description {
    pub(super) summary: Option<String>,
    pub(super) queries: Vec<(String, String)>,
    pub(super) takes: Option<RefOr<Schema>>,
    pub(super) returns: Option<RefOr<Schema>>,
    /// The schemas that others refer to, by name.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

/// The middleware and the handler that come after.
pub struct HttpNext<'n> {
    middleware: &'n [Arc<Middleware>],
    handler: &'n Handler,
}

/// The routes by method and path.
pub(super) type Table = Router<HttpRoute>;

impl HttpRoutes {
    pub(super) fn new() -> Self {
        Self {
            prefix: String::new(),
            middleware: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// Adds a middleware: it decides about a request before the handlers of the routes that are added after it, and about the reply.
    pub fn middleware(
        &mut self,
        middleware: impl Fn(&mut HttpRequest, HttpNext<'_>) -> Result<HttpReply, HttpError>
        + Send
        + Sync
        + 'static,
    ) -> &mut Self {
        self.middleware.push(Arc::new(middleware));
        self
    }

    /// Adds routes whose paths begin with this prefix, and whose middleware is their own, after that of this group.
    pub fn group(&mut self, prefix: &str, add: impl FnOnce(&mut HttpRoutes)) -> &mut Self {
        let mut group = HttpRoutes {
            prefix: format!("{}{prefix}", self.prefix),
            middleware: self.middleware.clone(),
            routes: Vec::new(),
        };
        add(&mut group);
        self.routes.append(&mut group.routes);
        self
    }

    /// Adds a route. `{name}` in the pattern is a part of the path, and a final `{*name}` the rest of it. A route for `GET` serves
    /// `HEAD` too. What it returns describes the route.
    pub fn route(
        &mut self,
        method: &str,
        pattern: &str,
        handler: impl Fn(&mut HttpRequest) -> Result<HttpReply, HttpError> + Send + Sync + 'static,
    ) -> &mut HttpRoute {
        self.routes.push(HttpRoute {
            method: method.to_owned(),
            pattern: format!("{}{pattern}", self.prefix),
            middleware: self.middleware.clone(),
            handler: Arc::new(handler),
            description: Description::default(),
        });
        let last = self.routes.len() - 1;
        &mut self.routes[last]
    }

    /// Adds a route for `GET`.
    pub fn get(
        &mut self,
        pattern: &str,
        handler: impl Fn(&mut HttpRequest) -> Result<HttpReply, HttpError> + Send + Sync + 'static,
    ) -> &mut HttpRoute {
        self.route("GET", pattern, handler)
    }

    /// Adds a route for `POST`.
    pub fn post(
        &mut self,
        pattern: &str,
        handler: impl Fn(&mut HttpRequest) -> Result<HttpReply, HttpError> + Send + Sync + 'static,
    ) -> &mut HttpRoute {
        self.route("POST", pattern, handler)
    }

    /// Adds a route for `PUT`.
    pub fn put(
        &mut self,
        pattern: &str,
        handler: impl Fn(&mut HttpRequest) -> Result<HttpReply, HttpError> + Send + Sync + 'static,
    ) -> &mut HttpRoute {
        self.route("PUT", pattern, handler)
    }

    /// Adds a route for `DELETE`.
    pub fn delete(
        &mut self,
        pattern: &str,
        handler: impl Fn(&mut HttpRequest) -> Result<HttpReply, HttpError> + Send + Sync + 'static,
    ) -> &mut HttpRoute {
        self.route("DELETE", pattern, handler)
    }

    pub(super) fn build(self) -> Result<Table, Error> {
        let mut table = Table::new();
        for route in self.routes {
            let (method, pattern) = (route.method.clone(), route.pattern.clone());
            let added = table.add(&method, &pattern, route);
            added.map_err(|error| Error::argument("routes", error.to_string()))?;
        }
        Ok(table)
    }
}

/// # Its description
impl HttpRoute {
    /// Sets a line about the route.
    pub fn summary(&mut self, text: &str) -> &mut Self {
        self.description.summary = Some(text.to_owned());
        self
    }

    /// Adds a name in the query, with a line about it.
    pub fn query(&mut self, name: &str, text: &str) -> &mut Self {
        let pair = (name.to_owned(), text.to_owned());
        self.description.queries.push(pair);
        self
    }

    /// Sets the type of the body, which has `#[derive(utoipa::ToSchema)]`.
    pub fn takes<T: ToSchema>(&mut self) -> &mut Self {
        self.description.takes = Some(T::schema());
        T::schemas(&mut self.description.schemas);
        self
    }

    /// Sets the type of the reply, which has `#[derive(utoipa::ToSchema)]`.
    pub fn returns<T: ToSchema>(&mut self) -> &mut Self {
        self.description.returns = Some(T::schema());
        T::schemas(&mut self.description.schemas);
        self
    }

    pub(super) fn run(&self, request: &mut HttpRequest) -> Result<HttpReply, HttpError> {
        let next = HttpNext {
            middleware: &self.middleware,
            handler: &*self.handler,
        };
        next.run(request)
    }
}

impl HttpNext<'_> {
    /// Goes on with the request.
    ///
    /// # Errors
    ///
    /// That of the handler.
    pub fn run(self, request: &mut HttpRequest) -> Result<HttpReply, HttpError> {
        match self.middleware.split_first() {
            Some((first, middleware)) => {
                let handler = self.handler;
                first(
                    request,
                    HttpNext {
                        middleware,
                        handler,
                    },
                )
            }
            None => (self.handler)(request),
        }
    }
}

impl fmt::Debug for HttpRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.routes).finish()
    }
}

impl fmt::Debug for HttpRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.pattern)
    }
}

impl fmt::Debug for HttpNext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpNext").finish_non_exhaustive()
    }
}
