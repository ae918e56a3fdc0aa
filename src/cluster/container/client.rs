use std::fmt;
use std::time::Duration;

use super::{Component, Failure, IntoComponent};
use crate::cluster::client::{Client, ClientBuilder, Clients};

/// A client of a gate as a component. It begins to connect when the container starts, also if the gate is not there yet, and
/// closes with it.
///
/// ```
/// use epicycle::cluster::client::Client;
/// use epicycle::cluster::container::{ClientComponent, Container};
///
/// let bot = ClientComponent::new("bot", Client::builder(), "tcp://127.0.0.1:3553");
/// let container = Container::new().add(bot);
/// # drop(container);
/// ```
pub struct ClientComponent {
    name: String,
    addr: String,
    builder: Option<ClientBuilder>,
    client: Option<Client>,
}

impl ClientComponent {
    /// Returns a client that will dial an address, on a thread of its own.
    pub fn new(name: impl Into<String>, builder: ClientBuilder, addr: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            addr: addr.into(),
            builder: Some(builder),
            client: None,
        }
    }
}

impl Component for ClientComponent {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<(), Failure> {
        if let Some(builder) = self.builder.take() {
            self.client = Some(builder.dial(&Clients::start(1)?, &self.addr)?);
        }
        Ok(())
    }

    fn banner(&self) -> Vec<(&'static str, String)> {
        vec![("Name", self.name.clone()), ("Gate", self.addr.clone())]
    }

    fn close(&mut self, _deadline: Duration) -> Result<(), Failure> {
        if let Some(client) = self.client.take() {
            client.close();
        }
        Ok(())
    }
}

impl IntoComponent for Client {
    type Component = ClientComponent;

    fn into_component(self) -> ClientComponent {
        ClientComponent {
            name: "client".to_owned(),
            addr: self.peer().to_owned(),
            builder: None,
            client: Some(self),
        }
    }
}

impl fmt::Debug for ClientComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientComponent")
            .field("name", &self.name)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}
