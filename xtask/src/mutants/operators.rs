//! What can be changed: each operator, name or type with what takes its place.
//!
//! Memory orderings are not among it: loom looks after those.

use quote::ToTokens;
use syn::{Expr, GenericArgument, PathArguments, ReturnType, Type, TypePath};

/// Two of a kind, each in the place of the other.
const SWAPS: [(&str, &str); 16] = [
    ("<", "<="),
    (">", ">="),
    ("==", "!="),
    ("&&", "||"),
    ("+", "-"),
    ("*", "/"),
    ("&", "|"),
    ("<<", ">>"),
    ("+=", "-="),
    ("*=", "/="),
    ("&=", "|="),
    ("<<=", ">>="),
    ("^", "|"),
    ("^=", "|="),
    ("%", "/"),
    ("%=", "/="),
];

/// Methods of the same form.
const METHODS: [(&str, &str); 9] = [
    ("min", "max"),
    ("any", "all"),
    ("is_some", "is_none"),
    ("is_ok", "is_err"),
    ("is_some_and", "is_none_or"),
    ("leading_zeros", "trailing_zeros"),
    ("fetch_add", "fetch_sub"),
    ("fetch_and", "fetch_or"),
    ("min_by_key", "max_by_key"),
];

/// Functions that order memory, or that do nothing where the library ships.
const PROOFS: [&str; 3] = ["between_seqcst", "fence", "pooled"];

/// The operator that takes the place of `operator`.
pub fn other_operator(operator: &str) -> Option<&'static str> {
    other(&SWAPS, operator)
}

/// The method that takes the place of `method`.
pub fn other_method(method: &str) -> Option<&'static str> {
    other(&METHODS, method)
}

/// `^` and `%` have no partner of their own, so the first match counts.
fn other(pairs: &[(&'static str, &'static str)], one: &str) -> Option<&'static str> {
    pairs.iter().find_map(|&(a, b)| match one {
        _ if one == a => Some(b),
        _ if one == b => Some(a),
        _ => None,
    })
}

/// Whether the operator stores its result.
pub fn assigns(operator: &str) -> bool {
    operator.ends_with('=') && !["==", "!=", "<=", ">="].contains(&operator)
}

/// What a function of this type can return at once, as the text after `return`.
pub fn early_returns(output: &ReturnType) -> Vec<String> {
    let ReturnType::Type(_, ty) = output else { return vec![String::new()] };
    defaults(ty).into_iter().map(|value| format!(" {value}")).collect()
}

fn defaults(ty: &Type) -> Vec<String> {
    match ty {
        Type::Tuple(tuple) if tuple.elems.is_empty() => vec!["()".into()],
        Type::Path(path) => of_path(path),
        _ => Vec::new(),
    }
}

fn of_path(path: &TypePath) -> Vec<String> {
    let Some(last) = path.path.segments.last() else { return Vec::new() };
    match last.ident.to_string().as_str() {
        "bool" => vec!["false".into(), "true".into()],
        "Option" => vec!["None".into()],
        "usize" | "isize" | "u8" | "u16" | "u32" | "u64" | "i64" => vec!["0".into(), "1".into()],
        "Result" => match &last.arguments {
            PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
                Some(GenericArgument::Type(ok)) => defaults(ok).iter().map(|value| format!("Ok({value})")).collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Whether a statement of this expression can be left out: a call or an
/// assignment, made for what it does.
pub fn can_be_left_out(expr: &Expr) -> bool {
    match expr {
        Expr::MethodCall(_) | Expr::Assign(_) => true,
        Expr::Call(call) => !PROOFS.contains(&called(call).as_str()),
        Expr::Try(inner) => can_be_left_out(&inner.expr),
        _ => false,
    }
}

/// The last name of the function.
fn called(call: &syn::ExprCall) -> String {
    match &*call.func {
        Expr::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Whether a condition binds names, so that it cannot stand anywhere else.
pub fn binds(condition: &Expr) -> bool {
    match condition {
        Expr::Let(_) => true,
        Expr::Binary(both) => binds(&both.left) || binds(&both.right),
        Expr::Group(inner) => binds(&inner.expr),
        _ => false,
    }
}

/// Whether changing the condition's own operator negates it already.
pub fn negates_by_operator(condition: &Expr) -> bool {
    match condition {
        Expr::Unary(_) => true,
        Expr::Binary(both) => matches!(both.op.to_token_stream().to_string().as_str(), "==" | "!="),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returns(output: &str) -> Vec<String> {
        early_returns(&syn::parse_str(output).unwrap())
    }

    #[test]
    fn each_operator_has_another_of_its_kind() {
        assert_eq!(other_operator("<"), Some("<="));
        assert_eq!(other_operator("<="), Some("<"));
        assert_eq!(other_operator("|"), Some("&"));
        assert_eq!(other_operator("^"), Some("|"));
        assert_eq!(other_operator("/"), Some("*"));
        assert_eq!(other_operator("=>"), None);
        assert_eq!(other_method("max"), Some("min"));
    }

    #[test]
    fn a_function_returns_at_once_what_its_type_has() {
        assert_eq!(returns(""), [""]);
        assert_eq!(returns("-> Option<u8>"), [" None"]);
        assert_eq!(returns("-> core::result::Result<(), usize>"), [" Ok(())"]);
        assert_eq!(returns("-> Result<bool, E>"), [" Ok(false)", " Ok(true)"]);
        assert_eq!(returns("-> &str"), [""; 0]);
    }
}
