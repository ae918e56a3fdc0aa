//! Routes of a value's methods.

/// Adds a route for each of these methods of a value, in a group that has the name of its type.
///
/// The path of the group is the type's name as [`uri_path`](crate::rpc::wire::uri_path) maps it. A method's path in it is
/// the method's name as it is. `"Name" = method` gives the path that `uri_path` makes of the name instead.
///
/// A method is a handler as [`Router::call`](crate::rpc::Router::call) takes it, behind `&self`. All reactors share the
/// value.
///
/// ```
/// use epicycle::rpc::{CallCtx, Router, Status, controller};
///
/// #[derive(Default)]
/// struct MathTool;
///
/// impl MathTool {
///     fn add(&self, _: &mut CallCtx<'_>, numbers: Vec<i64>) -> Result<i64, Status> {
///         Ok(numbers.iter().sum())
///     }
///
///     fn divide(&self, _: &mut CallCtx<'_>, (a, b): (i64, i64)) -> Result<i64, Status> {
///         a.checked_div(b).ok_or_else(|| Status::new(400, "division by zero"))
///     }
/// }
///
/// let mut routes = Router::new();
/// controller!(routes, MathTool::default() => MathTool { add, "DivideBy" = divide });
/// let paths: Vec<_> = routes.routes().map(|route| route.path.to_string()).collect();
/// assert_eq!(paths, ["/math_tool/add", "/math_tool/divide_by"]);
/// ```
#[macro_export]
macro_rules! controller {
    ($($all:tt)+) => {
        $crate::__controller_routes!(call; $($all)+)
    };
}

/// Adds a route for each of these methods of a value, which take PUSHes, as [`controller!`](crate::controller) does it for
/// CALLs.
///
/// ```
/// use epicycle::rpc::{PushCtx, Router, Status, push_controller};
///
/// struct News;
///
/// impl News {
///     fn status(&self, ctx: &PushCtx<'_>, text: String) -> Result<(), Status> {
///         println!("{}: {text}", ctx.remote_addr());
///         Ok(())
///     }
/// }
///
/// let mut routes = Router::new();
/// push_controller!(routes, News => News { status });
/// assert_eq!(&*routes.routes().next().unwrap().path, "/news/status");
/// ```
#[macro_export]
macro_rules! push_controller {
    ($($all:tt)+) => {
        $crate::__controller_routes!(push; $($all)+)
    };
}

/// The common part of [`controller!`](crate::controller) and [`push_controller!`](crate::push_controller).
#[doc(hidden)]
#[macro_export]
macro_rules! __controller_routes {
    (
        $kind:ident;
        $routes:expr,
        $value:expr => $type:ident { $($($name:literal =)? $method:ident),+ $(,)? }
    ) => {{
        let value: ::std::sync::Arc<$type> = ::std::sync::Arc::new($value);
        let group = $crate::rpc::wire::uri_path(::std::stringify!($type));
        $routes.group(&group, |routes| {
            $({
                let value = value.clone();
                let path = $crate::__controller_routes!(@path $($name)? $method);
                routes.$kind(&path, move |ctx, arg| $type::$method(&value, ctx, arg));
            })+
        });
    }};
    (@path $name:literal $method:ident) => {
        $crate::rpc::wire::uri_path($name)
    };
    (@path $method:ident) => {
        ::std::string::String::from(::std::stringify!($method))
    };
}
