use super::*;

fn changes(text: &str) -> Vec<String> {
    sites("a.rs", text).unwrap().into_iter().map(|site| site.change).collect()
}

/// The changes inside of a function whose own return cannot be changed.
fn inside(body: &str) -> Vec<String> {
    changes(&format!("fn f() -> T {{ {body} }}"))
}

#[test]
fn an_operator_is_exchanged() {
    assert_eq!(inside("a < b"), ["a ⟨<⟩ b → <="]);
    assert_eq!(inside("a += b"), ["a ⟨+=⟩ b → -="]);
    assert_eq!(inside("!a"), ["!a → a"]);
}

#[test]
fn a_condition_is_forced_and_negated() {
    assert_eq!(inside("if a() { b }"), ["a() → false", "a() → true", "a() → !(a())"]);
    assert_eq!(inside("while a() { b }"), ["a() → false"]);
    assert_eq!(inside("if let A = b { c }"), ["let A = b → false"]);
    assert_eq!(inside("match a { b if c() => d, e => f }"), ["c() → false", "c() → true", "c() → !(c())"]);
}

#[test]
fn an_arm_before_a_wildcard_is_left_out() {
    assert_eq!(inside("match a { A => b, B => c, _ => d }"), ["arm A left out", "arm B left out"]);
    assert_eq!(inside("match a { A => b, B => c }"), [""; 0]);
}

#[test]
fn a_statement_that_calls_or_assigns_is_left_out() {
    assert_eq!(inside("a.b(); c(d)?; e = f; let g = h; i"), ["a.b(); left out", "c(d)?; left out", "e = f; left out"]);
}

#[test]
fn what_orders_memory_or_serves_a_proof_only_stays() {
    assert_eq!(inside("fence(a); crate::sync::between_seqcst(); pooled(b); c"), [""; 0]);
}

#[test]
fn numbers_grow_by_one_and_booleans_turn() {
    assert_eq!(inside("f(1, true, 'c', \"s\")"), ["1 → 1 + 1", "true → false"]);
}

#[test]
fn a_function_returns_at_once_unless_that_is_all_it_does() {
    assert_eq!(changes("impl A<B> { fn f() -> bool { g } }"), ["return false at once", "return true at once"]);
    assert_eq!(changes("fn f() -> Option<u8> { None }"), [""; 0]);
    assert_eq!(sites("a.rs", "impl A<B> { fn f() -> bool { g } }").unwrap()[0].function, "A::f");
}

#[test]
fn what_is_evaluated_at_compile_time_stays() {
    assert_eq!(changes("const A: usize = 1 + 2; static B: u8 = 1; enum E { A = 1 }"), [""; 0]);
    assert_eq!(changes("const fn f() -> usize { 1 + 2 }"), [""; 0]);
    assert_eq!(
        inside("let a: [u8; 1 + 2] = [b; 3]; const { 1 + 1 }; f::<{ 1 + 1 }>; match a { 1 => b, 2..3 => c }"),
        [""; 0]
    );
}

#[test]
fn tests_and_what_a_flag_compiles_in_stay() {
    assert_eq!(changes("#[cfg(test)] mod tests { fn f() { a(); } } #[test] fn f() { a(); }"), [""; 0]);
    assert_eq!(changes("#[cfg(loom)] fn f() { a(); } #[cfg(all(test, not(loom)))] mod m { fn f() { a(); } }"), [""; 0]);
    assert_eq!(inside("#[cfg(loom)] a(); assert!(a < b); c"), [""; 0]);
    assert_eq!(changes("#[cfg(not(loom))] fn f() { a(); }").len(), 2);
}

#[test]
fn what_a_broken_rule_would_do_stays() {
    assert_eq!(inside("if breaks!(Rule) && !a { b(); } else { c(); }"), ["c(); left out"]);
}

#[test]
fn places_are_counted_in_bytes_and_lines_from_one() {
    let text = "// Ä → ö\nfn f() -> T {\n    /* – */ a < b\n}";
    let [site] = &sites("a.rs", text).unwrap()[..] else { panic!("one site") };
    assert_eq!((&text[site.edit.at.clone()], site.line), ("a < b", 3));
    assert_eq!(site.edit.text, "(a) <= (b)");
}
