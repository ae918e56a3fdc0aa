use std::fmt;
use std::time::Duration;

use super::component::drain_time;
use super::{Component, Failure, IntoComponent};
use crate::cluster::node::{Node, NodeBuilder};

/// A node as a component: it starts and ends with its container. [`NodeBuilder`]s and nodes that run already become one.
pub struct NodeComponent<T = ()> {
    name: String,
    builder: Option<NodeBuilder<T>>,
    node: Option<Node>,
}

impl<T: 'static> Component for NodeComponent<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<(), Failure> {
        if let Some(builder) = self.builder.take() {
            self.node = Some(builder.start()?);
        }
        Ok(())
    }

    fn banner(&self) -> Vec<(&'static str, String)> {
        self.node.as_ref().map(Node::describe).unwrap_or_default()
    }

    fn close(&mut self, deadline: Duration) -> Result<(), Failure> {
        if let Some(node) = self.node.take() {
            node.drain(drain_time(deadline));
        }
        Ok(())
    }
}

impl<T: 'static> IntoComponent for NodeBuilder<T> {
    type Component = NodeComponent<T>;

    fn into_component(self) -> NodeComponent<T> {
        NodeComponent {
            name: self.alias().to_owned(),
            builder: Some(self),
            node: None,
        }
    }
}

impl IntoComponent for Node {
    type Component = NodeComponent;

    fn into_component(self) -> NodeComponent {
        NodeComponent {
            name: self.id().to_owned(),
            builder: None,
            node: Some(self),
        }
    }
}

impl<T> fmt::Debug for NodeComponent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeComponent")
            .field("builder", &self.builder)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
