use std::fmt;
use std::time::Duration;

use super::component::drain_time;
use super::{Component, Failure, IntoComponent};
use crate::cluster::gate::{Gate, GateBuilder};

/// A gate as a component: it starts and ends with its container. [`GateBuilder`]s and gates that run already become one.
pub struct GateComponent {
    name: String,
    builder: Option<GateBuilder>,
    gate: Option<Gate>,
}

impl Component for GateComponent {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<(), Failure> {
        if let Some(builder) = self.builder.take() {
            self.gate = Some(builder.start()?);
        }
        Ok(())
    }

    fn banner(&self) -> Vec<(&'static str, String)> {
        self.gate.as_ref().map(Gate::describe).unwrap_or_default()
    }

    fn close(&mut self, deadline: Duration) -> Result<(), Failure> {
        if let Some(gate) = self.gate.take() {
            gate.drain(drain_time(deadline));
        }
        Ok(())
    }
}

impl IntoComponent for GateBuilder {
    type Component = GateComponent;

    fn into_component(self) -> GateComponent {
        GateComponent {
            name: self.alias().to_owned(),
            builder: Some(self),
            gate: None,
        }
    }
}

impl IntoComponent for Gate {
    type Component = GateComponent;

    fn into_component(self) -> GateComponent {
        GateComponent {
            name: self.id().to_owned(),
            builder: None,
            gate: Some(self),
        }
    }
}

impl fmt::Debug for GateComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateComponent")
            .field("builder", &self.builder)
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}
