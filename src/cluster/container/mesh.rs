use std::fmt;
use std::time::Duration;

use super::component::drain_time;
use super::{Component, Failure, IntoComponent};
use crate::cluster::mesh::{Mesh, MeshBuilder};

/// A mesh as a component: it starts and ends with its container. [`MeshBuilder`]s and meshes that run already become one.
pub struct MeshComponent {
    name: String,
    builder: Option<MeshBuilder>,
    mesh: Option<Mesh>,
}

impl Component for MeshComponent {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<(), Failure> {
        if let Some(builder) = self.builder.take() {
            self.mesh = Some(builder.start()?);
        }
        Ok(())
    }

    fn banner(&self) -> Vec<(&'static str, String)> {
        self.mesh.as_ref().map(Mesh::describe).unwrap_or_default()
    }

    fn close(&mut self, deadline: Duration) -> Result<(), Failure> {
        if let Some(mesh) = self.mesh.take() {
            mesh.shutdown_within(drain_time(deadline));
        }
        Ok(())
    }
}

impl IntoComponent for MeshBuilder {
    type Component = MeshComponent;

    fn into_component(self) -> MeshComponent {
        MeshComponent {
            name: self.alias().to_owned(),
            builder: Some(self),
            mesh: None,
        }
    }
}

impl IntoComponent for Mesh {
    type Component = MeshComponent;

    fn into_component(self) -> MeshComponent {
        MeshComponent {
            name: self.id().to_owned(),
            builder: None,
            mesh: Some(self),
        }
    }
}

impl fmt::Debug for MeshComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshComponent")
            .field("builder", &self.builder)
            .field("mesh", &self.mesh)
            .finish_non_exhaustive()
    }
}
