//! Where the library can be changed, and how: one [`Site`] for each change.
//!
//! The search leaves out whatever is not compiled into what ships, whatever is
//! evaluated at compile time (a choice at run time cannot stand there), types,
//! patterns, and the arguments of macros.

use super::operators as ops;
use proc_macro2::Span;
use quote::ToTokens;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, Attribute, BinOp, Block, Expr, Lit, Pat, Signature, Stmt, UnOp};

/// One change of the library's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// From the project's folder.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// The function it is in, with its type.
    pub function: String,
    /// What is changed into what, for people.
    pub change: String,
    /// The same for the compiler.
    pub edit: Edit,
}

/// A piece of a file, and what takes its place when the change is chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// In bytes of the file; empty for an insertion.
    pub at: Range<usize>,
    /// How the choice is written.
    pub form: Form,
    /// What takes its place.
    pub text: String,
}

/// How a choice is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `(if chosen { text } else { what was there })`
    Value,
    /// `if chosen {} else { what was there }`
    Statement,
    /// `text`, in which `@` stands for the question whether it is chosen.
    Insertion,
}

/// All changes of a file that is not for tests, in the order of its text.
pub fn sites(path: &str, text: &str) -> syn::Result<Vec<Site>> {
    let file = syn::parse_file(text)?;
    let mut finder = Finder { path, text, owner: String::new(), function: String::new(), found: Vec::new() };
    finder.visit_file(&file);
    finder.found.sort_by_key(|site| (site.edit.at.start, site.edit.at.end));
    Ok(finder.found)
}

struct Finder<'t> {
    path: &'t str,
    text: &'t str,
    /// The type or trait whose functions these are.
    owner: String,
    function: String,
    found: Vec<Site>,
}

impl Finder<'_> {
    fn add(&mut self, form: Form, at: Range<usize>, line: usize, text: String, change: String) {
        let (path, function) = (self.path.to_owned(), self.function.clone());
        self.found.push(Site { path, line, function, change, edit: Edit { at, form, text } });
    }

    /// `text` in the place of `span`.
    fn replace(&mut self, span: Span, text: String) {
        let change = format!("{} → {}", short(&self.text[span.byte_range()]), short(&text));
        self.add(Form::Value, span.byte_range(), span.start().line, text, change);
    }

    fn source(&self, node: &impl Spanned) -> &str {
        &self.text[node.span().byte_range()]
    }

    fn enter(&mut self, attrs: &[Attribute], sig: &Signature, body: &Block, go_on: impl FnOnce(&mut Self)) {
        if sig.constness.is_some() || attrs.iter().any(is_left_out) {
            return;
        }
        let name = match self.owner.as_str() {
            "" => sig.ident.to_string(),
            owner => format!("{owner}::{}", sig.ident),
        };
        let outer = std::mem::replace(&mut self.function, name);
        self.return_at_once(sig, body);
        go_on(self);
        self.function = outer;
    }

    fn return_at_once(&mut self, sig: &Signature, body: &Block) {
        let (open, close) = (body.brace_token.span.open(), body.brace_token.span.close());
        let inside = self.text[open.byte_range().end..close.byte_range().start].trim();
        let returns = ops::early_returns(&sig.output).into_iter().filter(|value| value.trim() != inside);
        for value in returns.collect::<Vec<_>>() {
            let at = open.byte_range().end;
            let text = format!(" if @ {{ return{value}; }}");
            self.add(Form::Insertion, at..at, sig.fn_token.span().start().line, text, format!("return{value} at once"));
        }
    }

    fn owned(&mut self, attrs: &[Attribute], owner: String, go_on: impl FnOnce(&mut Self)) {
        if !attrs.iter().any(is_left_out) {
            let outer = std::mem::replace(&mut self.owner, owner);
            go_on(self);
            self.owner = outer;
        }
    }

    /// The condition of an `if` or a `while`, or a guard.
    fn condition(&mut self, condition: &Expr, may_force: bool) {
        let (span, source) = (condition.span(), self.source(condition).to_owned());
        if ops::binds(condition) {
            let at = span.byte_range().start;
            let change = format!("{} → false", short(&source));
            self.add(Form::Insertion, at..at, span.start().line, "!@ && ".into(), change);
            return;
        }
        self.replace(span, "false".into());
        if may_force {
            self.replace(span, "true".into());
            if !ops::negates_by_operator(condition) {
                self.replace(span, format!("!({source})"));
            }
        }
    }

    fn arms(&mut self, arms: &[Arm]) {
        let Some((Arm { pat: Pat::Wild(_), .. }, before)) = arms.split_last() else { return };
        for arm in before.iter().filter(|arm| !matches!(arm.pat, Pat::Guard(_))) {
            let span = arm.pat.span();
            let at = span.byte_range().end;
            let change = format!("arm {} left out", short(self.source(&arm.pat)));
            self.add(Form::Insertion, at..at, span.start().line, " if !@".into(), change);
        }
    }

    fn binary(&mut self, expr: &syn::ExprBinary) {
        let operator = expr.op.to_token_stream().to_string().replace(' ', "");
        let lets = ops::binds(&expr.left) || ops::binds(&expr.right);
        if let Some(other) = ops::other_operator(&operator).filter(|_| !lets) {
            let (left, right) = (self.source(&expr.left), self.source(&expr.right));
            let text = match ops::assigns(&operator) {
                true => format!("{left} {other} {right}"),
                false => format!("({left}) {other} ({right})"),
            };
            let change =
                format!("{} → {other}", short(self.source(expr)).replacen(&operator, &format!("⟨{operator}⟩"), 1));
            self.add(Form::Value, expr.span().byte_range(), expr.span().start().line, text, change);
        }
    }

    fn method(&mut self, call: &syn::ExprMethodCall) {
        let Some(other) = ops::other_method(&call.method.to_string()) else { return };
        let (whole, name) = (call.span().byte_range(), call.method.span().byte_range());
        let text = [&self.text[whole.start..name.start], other, &self.text[name.end..whole.end]].concat();
        let change = format!("{} → {other}", short(&self.text[whole.clone()]));
        self.add(Form::Value, whole, call.method.span().start().line, text, change);
    }

    fn literal(&mut self, expr: &syn::ExprLit) {
        match &expr.lit {
            Lit::Int(int) => self.replace(int.span(), format!("{int} + 1")),
            Lit::Bool(bool) => self.replace(bool.span(), (!bool.value).to_string()),
            _ => {}
        }
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_fn(&mut self, f: &'a syn::ItemFn) {
        self.enter(&f.attrs, &f.sig, &f.block, |finder| visit::visit_item_fn(finder, f));
    }

    fn visit_impl_item_fn(&mut self, f: &'a syn::ImplItemFn) {
        self.enter(&f.attrs, &f.sig, &f.block, |finder| visit::visit_impl_item_fn(finder, f));
    }

    fn visit_trait_item_fn(&mut self, f: &'a syn::TraitItemFn) {
        if let Some(body) = &f.default {
            self.enter(&f.attrs, &f.sig, body, |finder| visit::visit_trait_item_fn(finder, f));
        }
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let trait_name = item.trait_.as_ref().and_then(|(path, _)| path.segments.last());
        if trait_name.is_none_or(|name| name.ident != "Debug") {
            let ty = item.self_ty.to_token_stream().to_string();
            let name = ty.split(['<', ' ']).next().unwrap_or_default().to_owned();
            self.owned(&item.attrs, name, |finder| visit::visit_item_impl(finder, item));
        }
    }

    fn visit_item_trait(&mut self, item: &'a syn::ItemTrait) {
        self.owned(&item.attrs, item.ident.to_string(), |finder| visit::visit_item_trait(finder, item));
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.owned(&item.attrs, String::new(), |finder| visit::visit_item_mod(finder, item));
    }

    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if self.source(stmt).starts_with("#[cfg") {
            return;
        }
        if let Stmt::Expr(expr, Some(_)) = stmt
            && ops::can_be_left_out(expr)
        {
            let (span, change) = (stmt.span(), format!("{} left out", short(self.source(stmt))));
            self.add(Form::Statement, span.byte_range(), span.start().line, String::new(), change);
        }
        visit::visit_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Binary(both) => self.binary(both),
            Expr::Lit(literal) => self.literal(literal),
            Expr::MethodCall(call) => self.method(call),
            Expr::If(branch) if asks_to_break(&branch.cond) => {
                branch.else_branch.iter().for_each(|(_, other)| self.visit_expr(other));
                return;
            }
            Expr::If(branch) => self.condition(&branch.cond, true),
            // Forced true it would only run into the time limit.
            Expr::While(branch) => self.condition(&branch.cond, false),
            Expr::Match(branches) => self.arms(&branches.arms),
            Expr::Unary(not) if matches!(not.op, UnOp::Not(_)) => {
                let text = self.source(&not.expr).to_owned();
                self.replace(not.span(), text);
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }

    fn visit_expr_repeat(&mut self, repeat: &'a syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
    }

    fn visit_pat_guard(&mut self, guarded: &'a syn::PatGuard) {
        self.condition(&guarded.guard, true);
        self.visit_expr(&guarded.guard);
    }

    fn visit_pat(&mut self, pat: &'a Pat) {
        if let Pat::Guard(guarded) = pat {
            self.visit_pat_guard(guarded);
        }
    }

    fn visit_attribute(&mut self, _: &'a Attribute) {}
    fn visit_type(&mut self, _: &'a syn::Type) {}
    fn visit_generics(&mut self, _: &'a syn::Generics) {}
    fn visit_generic_argument(&mut self, _: &'a syn::GenericArgument) {}
    fn visit_item_const(&mut self, _: &'a syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'a syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'a syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'a syn::TraitItemConst) {}
    fn visit_variant(&mut self, _: &'a syn::Variant) {}
    fn visit_expr_const(&mut self, _: &'a syn::ExprConst) {}
}

/// `breaks!(…)`, or `breaks!(…) && …`: always false in what ships.
fn asks_to_break(condition: &Expr) -> bool {
    match condition {
        Expr::Macro(call) => call.mac.path.is_ident("breaks"),
        Expr::Binary(both) if matches!(both.op, BinOp::And(_)) => asks_to_break(&both.left),
        _ => false,
    }
}

/// A `#[cfg(…)]` that asks for a test or a flag, or `#[test]` itself. What is
/// compiled unless a flag is set, or for some targets, ships.
fn is_left_out(attr: &Attribute) -> bool {
    let text = attr.meta.to_token_stream().to_string();
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    match words[..] {
        ["test"] => true,
        ["cfg", first, ..] => first != "not" && !first.starts_with("target_"),
        _ => false,
    }
}

/// In one line of at most 70 characters.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(70) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests;
