use std::fmt;
use std::time::Duration;

use super::{Component, Failure, IntoComponent};
use crate::cluster::admin::{Admin, AdminBuilder};

/// An admin interface as a component: it starts and ends with its container. [`AdminBuilder`]s and interfaces that run already become
/// one. Give it the monitor of the parts of the process.
pub struct AdminComponent {
    builder: Option<AdminBuilder>,
    admin: Option<Admin>,
}

impl Component for AdminComponent {
    fn name(&self) -> &'static str {
        "admin"
    }

    fn start(&mut self) -> Result<(), Failure> {
        if let Some(builder) = self.builder.take() {
            self.admin = Some(builder.start()?);
        }
        Ok(())
    }

    fn banner(&self) -> Vec<(&'static str, String)> {
        let admin = self.admin.iter();
        admin
            .map(|admin| ("Server", format!("[http] {}", admin.addr())))
            .collect()
    }

    fn close(&mut self, _deadline: Duration) -> Result<(), Failure> {
        drop(self.admin.take());
        Ok(())
    }
}

impl IntoComponent for AdminBuilder {
    type Component = AdminComponent;

    fn into_component(self) -> AdminComponent {
        AdminComponent {
            builder: Some(self),
            admin: None,
        }
    }
}

impl IntoComponent for Admin {
    type Component = AdminComponent;

    fn into_component(self) -> AdminComponent {
        AdminComponent {
            builder: None,
            admin: Some(self),
        }
    }
}

impl fmt::Debug for AdminComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminComponent")
            .field("builder", &self.builder)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}
