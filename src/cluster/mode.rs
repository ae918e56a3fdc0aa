use std::fmt;
use std::str::FromStr;

use super::Error;

/// The mode that a process runs in, which it shows and the application may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// For developers.
    #[default]
    Debug,
    /// For tests.
    Test,
    /// For production.
    Release,
}

impl Mode {
    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Test => "test",
            Self::Release => "release",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = Error;

    /// Parses the name.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] with the names that are possible.
    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [Self::Debug, Self::Test, Self::Release];
        all.into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| {
                Error::argument(
                    "mode",
                    format!("{text:?} is not one of debug, test, release"),
                )
            })
    }
}
