//! Rules for the parameters of a handler: where they come from, and which values are valid. As Teleport's `binder` plugin,
//! with rules that are built in code in place of struct tags.
//!
//! A parameter is a part of the body, or comes from the URI's query or the session's [`Swap`](crate::rpc::Swap) and is put into
//! the handler's argument. The first one that breaks a rule ends the call with 400 `Invalid Parameter`, which names the handler, the
//! parameter and the reason.
//!
//! ```
//! use epicycle::rpc::plugins::binder::{Binder, Rules};
//! use epicycle::rpc::{Peer, Router};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, Serialize)]
//! struct Division {
//!     a: i64,
//!     b: i64,
//!     #[serde(skip)]
//!     author: String,
//! }
//!
//! let binder = Binder::new()
//!     .body("b", |division: &Division| &division.b, Rules::new().range(1..=100).desc("the divisor"))
//!     .query("author", |division, name| division.author = name, Rules::new().len(..=20));
//!
//! let mut routes = Router::new();
//! routes.call("/math/divide", binder.call(|_ctx, division| Ok(division.a / division.b)));
//! let server = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()?;
//!
//! let client = Peer::builder().start()?;
//! let session = client.dial(&server.local_addrs()[0])?;
//! let divide = |b| {
//!     let division = Division { a: 6, b, author: String::new() };
//!     session.call::<_, i64>("/math/divide?author=me", &division).wait()
//! };
//! assert_eq!(divide(2), Ok(3));
//! let status = divide(0).unwrap_err();
//! assert_eq!((status.code, &*status.message), (400, "Invalid Parameter"));
//! assert_eq!(status.reason, r#"{"handler": "/math/divide", "param": "b", "reason": "smaller than 1: 0"}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::any::Any;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::hash::BuildHasher;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;

use crate::rpc::context::{CallCtx, Incoming, PushCtx};
use crate::rpc::wire::{Status, code};

/// The rules for all parameters of a handler whose argument is an `A`. They are checked in the order in which they were added.
pub struct Binder<A> {
    params: Vec<Param>,
    bind: Vec<Bind<A>>,
    refusal: Refusal,
}

/// Checks one parameter, and puts it into the argument.
type Bind<A> = Box<dyn Fn(&Incoming<'_>, &mut A) -> Result<(), Fault> + Send + Sync>;

/// The place where a parameter comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The body of the message.
    Body,
    /// The query of the URI.
    Query,
    /// The session's [`Swap`](crate::rpc::Swap).
    Swap,
}

/// A description of a parameter, for documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Param {
    /// The name.
    pub name: Cow<'static, str>,
    /// The place where it comes from.
    pub source: Source,
    /// The text of [`Rules::desc`].
    pub desc: Cow<'static, str>,
}

/// The code and the message of a refusal.
#[derive(Clone, Debug)]
struct Refusal {
    code: i32,
    message: Cow<'static, str>,
}

/// A parameter that breaks a rule.
struct Fault {
    reason: String,
    /// The parameter's own refusal.
    refusal: Option<Refusal>,
}

impl<A: 'static> Default for Binder<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: 'static> Binder<A> {
    /// Returns rules for no parameters.
    pub fn new() -> Self {
        Self {
            params: Vec::new(),
            bind: Vec::new(),
            refusal: Refusal {
                code: code::BAD_MESSAGE,
                message: "Invalid Parameter".into(),
            },
        }
    }

    /// Sets the code and the message of refusals, for parameters whose rules have none of their own. Default: 400
    /// `Invalid Parameter`.
    pub fn err(mut self, code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        self.refusal = Refusal { code, message };
        self
    }

    /// Adds a parameter that is a part of the body. `get` returns it.
    pub fn body<V: 'static>(
        self,
        name: impl Into<Cow<'static, str>>,
        get: impl for<'a> Fn(&'a A) -> &'a V + Send + Sync + 'static,
        rules: Rules<V>,
    ) -> Self {
        let name = name.into();
        let desc = rules.desc.clone();
        let bind = move |_: &Incoming<'_>, argument: &mut A| rules.obeyed(get(argument));
        self.param(name, Source::Body, desc, bind)
    }

    /// Adds a parameter from the URI's query. `set` puts it into the argument. Without it in the query nothing is set, which
    /// only [`Rules::nonzero`] refuses. Of several values the first one counts.
    pub fn query<V: FromStr + 'static>(
        self,
        name: impl Into<Cow<'static, str>>,
        set: impl Fn(&mut A, V) + Send + Sync + 'static,
        rules: Rules<V>,
    ) -> Self {
        let name = name.into();
        let (key, desc) = (name.clone(), rules.desc.clone());
        let bind = move |message: &Incoming<'_>, argument: &mut A| {
            let Some(text) = message.query(&key) else {
                return rules.check_absence();
            };
            let value = text
                .parse()
                .map_err(|_| rules.fault("malformed".to_owned()))?;
            rules.obeyed(&value)?;
            set(argument, value);
            Ok(())
        };
        self.param(name, Source::Query, desc, bind)
    }

    /// Adds a parameter from the session's [`Swap`](crate::rpc::Swap). `set` puts it into the argument. If there is no value of
    /// this type, nothing is set, which only [`Rules::nonzero`] refuses.
    pub fn swap<V: Any + Send + Sync>(
        self,
        key: impl Into<Cow<'static, str>>,
        set: impl Fn(&mut A, &V) + Send + Sync + 'static,
        rules: Rules<V>,
    ) -> Self {
        let name = key.into();
        let (key, desc) = (name.clone(), rules.desc.clone());
        let bind = move |message: &Incoming<'_>, argument: &mut A| {
            let Some(value) = message.swap().get::<V>(&key) else {
                return rules.check_absence();
            };
            rules.obeyed(&value)?;
            set(argument, &value);
            Ok(())
        };
        self.param(name, Source::Swap, desc, bind)
    }

    fn param(
        mut self,
        name: Cow<'static, str>,
        source: Source,
        desc: Cow<'static, str>,
        bind: impl Fn(&Incoming<'_>, &mut A) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Self {
        self.params.push(Param { name, source, desc });
        self.bind.push(Box::new(bind));
        self
    }

    /// Returns the descriptions of the parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Returns a handler of calls that runs `handler` with arguments that obey the rules. It is for
    /// [`Router::call`](crate::rpc::Router::call) and those for blocking handlers. In other handlers, use
    /// [`bind`](Self::bind).
    pub fn call<R, F>(
        self,
        handler: F,
    ) -> impl Fn(&mut CallCtx<'_>, A) -> Result<R, Status> + Send + Sync + 'static
    where
        F: Fn(&mut CallCtx<'_>, A) -> Result<R, Status> + Send + Sync + 'static,
    {
        move |ctx, argument| {
            let argument = self.bind(ctx, argument)?;
            handler(ctx, argument)
        }
    }

    /// Returns a handler of pushes that runs `handler` with arguments that obey the rules.
    pub fn push<F>(
        self,
        handler: F,
    ) -> impl Fn(&PushCtx<'_>, A) -> Result<(), Status> + Send + Sync + 'static
    where
        F: Fn(&PushCtx<'_>, A) -> Result<(), Status> + Send + Sync + 'static,
    {
        move |ctx, argument| {
            let argument = self.bind(ctx, argument)?;
            handler(ctx, argument)
        }
    }

    /// Checks all parameters, and returns the argument with those of the query and the session.
    ///
    /// # Errors
    ///
    /// Returns the status for the first parameter that breaks a rule.
    pub fn bind(&self, message: &Incoming<'_>, mut argument: A) -> Result<A, Status> {
        for (param, bind) in self.params.iter().zip(&self.bind) {
            bind(message, &mut argument).map_err(|fault| {
                let Refusal {
                    code,
                    message: text,
                } = fault.refusal.unwrap_or(self.refusal.clone());
                let (handler, name) = (quoted(&message.path()), quoted(&param.name));
                let reason = quoted(&fault.reason);
                Status::new(code, text).with_reason(format!(
                    r#"{{"handler": {handler}, "param": {name}, "reason": {reason}}}"#
                ))
            })?;
        }
        Ok(argument)
    }
}

/// Returns the text as a string of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The rules for one parameter. They are checked in the order in which they were added.
pub struct Rules<V> {
    checks: Vec<Check<V>>,
    is_needed: bool,
    desc: Cow<'static, str>,
    refusal: Option<Refusal>,
}

/// Returns the reason if the value breaks the rule.
type Check<V> = Box<dyn Fn(&V) -> Result<(), String> + Send + Sync>;

impl<V: 'static> Default for Rules<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: 'static> Rules<V> {
    /// Returns no rules.
    pub fn new() -> Self {
        Self {
            checks: Vec::new(),
            is_needed: false,
            desc: "".into(),
            refusal: None,
        }
    }

    /// Describes the parameter.
    pub fn desc(mut self, desc: impl Into<Cow<'static, str>>) -> Self {
        self.desc = desc.into();
        self
    }

    /// Sets the code and the message of refusals of this parameter.
    pub fn err(mut self, code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        self.refusal = Some(Refusal { code, message });
        self
    }

    /// Adds a rule of your own. `check` returns the reason if the value breaks it.
    pub fn check(
        mut self,
        check: impl Fn(&V) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Refuses the type's default value (0, an empty text or list, `None`), and a parameter that is absent: `not set`.
    pub fn nonzero(mut self) -> Self
    where
        V: Default + PartialEq,
    {
        self.is_needed = true;
        self.check(|value| match *value == V::default() {
            true => Err(NOT_SET.to_owned()),
            false => Ok(()),
        })
    }

    /// Refuses values outside a range: `smaller than 1: 0`, `bigger than 9: 10`, and `not smaller than 10: 10` where the bound
    /// itself is outside.
    pub fn range(self, range: impl RangeBounds<V> + Send + Sync + 'static) -> Self
    where
        V: PartialOrd + Display,
    {
        self.check(move |value| within(&range, value, "smaller", "bigger"))
    }

    /// Refuses texts whose number of characters, or lists whose number of elements, is outside a range:
    /// `shorter than 3: 2`, `longer than 6: 7`.
    pub fn len(self, range: impl RangeBounds<usize> + Send + Sync + 'static) -> Self
    where
        V: Length,
    {
        self.check(move |value| within(&range, &value.length(), "shorter", "longer"))
    }

    /// Refuses texts that do not match a regular expression: `does not match ^\w+$`. It matches anywhere in the text unless it
    /// has `^` and `$`. The time to match is linear in the length of the text.
    ///
    /// # Errors
    ///
    /// [`Error::Option`](crate::Error::Option) if it is no regular expression of the crate `regex`.
    #[cfg(feature = "rpc-regexp")]
    pub fn regexp(self, pattern: &str) -> Result<Self, crate::error::Error>
    where
        V: AsRef<str>,
    {
        let regex = regex::Regex::new(pattern).map_err(|error| crate::error::Error::Option {
            name: "regexp",
            problem: error.to_string(),
        })?;
        Ok(
            self.check(move |value| match regex.is_match(value.as_ref()) {
                true => Ok(()),
                false => Err(format!("does not match {regex}")),
            }),
        )
    }

    fn check_absence(&self) -> Result<(), Fault> {
        match self.is_needed {
            true => Err(self.fault(NOT_SET.to_owned())),
            false => Ok(()),
        }
    }

    fn obeyed(&self, value: &V) -> Result<(), Fault> {
        let broken = self.checks.iter().try_for_each(|check| check(value));
        broken.map_err(|reason| self.fault(reason))
    }

    fn fault(&self, reason: String) -> Fault {
        let refusal = self.refusal.clone();
        Fault { reason, refusal }
    }
}

const NOT_SET: &str = "not set";

/// Returns the reason if a value is outside a range.
fn within<V: PartialOrd + Display>(
    range: &impl RangeBounds<V>,
    value: &V,
    less: &str,
    more: &str,
) -> Result<(), String> {
    // A value that cannot be compared, such as NaN, is outside.
    let is = |wanted: fn(Ordering) -> bool, bound| value.partial_cmp(bound).is_some_and(wanted);
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(start), _) if !is(Ordering::is_ge, start) => {
            Err(format!("{less} than {start}: {value}"))
        }
        (Bound::Excluded(start), _) if !is(Ordering::is_gt, start) => {
            Err(format!("not {more} than {start}: {value}"))
        }
        (_, Bound::Included(end)) if !is(Ordering::is_le, end) => {
            Err(format!("{more} than {end}: {value}"))
        }
        (_, Bound::Excluded(end)) if !is(Ordering::is_lt, end) => {
            Err(format!("not {less} than {end}: {value}"))
        }
        _ => Ok(()),
    }
}

/// A type whose values have a length.
pub trait Length {
    /// Returns the number of characters of a text, or of elements of a collection.
    fn length(&self) -> usize;
}

impl Length for String {
    fn length(&self) -> usize {
        self.chars().count()
    }
}

impl<T> Length for Vec<T> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl<K, V, S: BuildHasher> Length for HashMap<K, V, S> {
    fn length(&self) -> usize {
        self.len()
    }
}

/// Nothing has the length 0.
impl<T: Length> Length for Option<T> {
    fn length(&self) -> usize {
        self.as_ref().map_or(0, Length::length)
    }
}

impl<A> fmt::Debug for Binder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Binder").field(&self.params).finish()
    }
}

impl<V> fmt::Debug for Rules<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("desc", &self.desc)
            .field("checks", &self.checks.len())
            .finish_non_exhaustive()
    }
}
