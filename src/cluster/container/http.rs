use std::fmt;
use std::time::Duration;

use super::{Component, Failure, IntoComponent};
use crate::cluster::http::{HttpBuilder, HttpServer};

/// An HTTP server as a component: it starts and ends with its container. [`HttpBuilder`]s become one.
pub struct HttpComponent {
    builder: Option<HttpBuilder>,
    server: Option<HttpServer>,
}

impl Component for HttpComponent {
    fn name(&self) -> &str {
        "http"
    }

    fn start(&mut self) -> Result<(), Failure> {
        if let Some(builder) = self.builder.take() {
            self.server = Some(builder.start()?);
        }
        Ok(())
    }

    fn banner(&self) -> Vec<(&'static str, String)> {
        let server = self.server.iter();
        server
            .map(|server| ("HTTP", server.addr().to_string()))
            .collect()
    }

    fn close(&mut self, _deadline: Duration) -> Result<(), Failure> {
        drop(self.server.take());
        Ok(())
    }
}

impl IntoComponent for HttpBuilder {
    type Component = HttpComponent;

    fn into_component(self) -> HttpComponent {
        HttpComponent {
            builder: Some(self),
            server: None,
        }
    }
}

impl fmt::Debug for HttpComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpComponent")
            .field("builder", &self.builder)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
