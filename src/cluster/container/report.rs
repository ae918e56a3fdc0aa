use std::fmt;
use std::time::Duration;

use super::Step;

/// The outcomes of the components of a container, and their times.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The reason for the end: the name of a signal, for example.
    pub cause: String,
    /// The components, in the order in which they were added.
    pub components: Vec<ComponentReport>,
}

/// The outcome of a component.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ComponentReport {
    /// The name of the component.
    pub name: String,
    /// The steps that it took, in their order.
    pub steps: Vec<Outcome>,
}

/// The outcome of a step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The step.
    pub step: Step,
    /// The time that it took.
    pub took: Duration,
    /// The error, or the message of a panic. `None` if the step succeeded.
    pub problem: Option<String>,
}

impl Report {
    /// Returns true if no component had a problem.
    pub fn is_clean(&self) -> bool {
        let mut steps = self
            .components
            .iter()
            .flat_map(|component| &component.steps);
        steps.all(|outcome| outcome.problem.is_none())
    }
}

impl ComponentReport {
    /// Returns the outcome of a step, if the component took it.
    pub fn step(&self, step: Step) -> Option<&Outcome> {
        self.steps.iter().find(|outcome| outcome.step == step)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended by {}", self.cause)?;
        for component in &self.components {
            write!(f, "\n{component}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ComponentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        for (n, outcome) in self.steps.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma} {} {:.1?}", outcome.step, outcome.took)?;
            if let Some(problem) = &outcome.problem {
                write!(f, " ({problem})")?;
            }
        }
        Ok(())
    }
}
