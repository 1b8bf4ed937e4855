//! The guide shows what its program does.

const GUIDE: &str = include_str!("../../../../docs/guide/events.md");
const PROGRAM: &str = include_str!("../../examples/orders.rs");

#[test]
fn every_snippet_of_the_guide_is_in_its_program() {
    let program: Vec<_> = PROGRAM.lines().map(str::trim).collect();
    let program = program.join("\n");
    let mut snippets = 0;
    for block in GUIDE.split("```rust\n").skip(1) {
        let code = block.split("```").next().unwrap();
        let code: Vec<_> = code.lines().map(str::trim).collect();
        assert!(
            program.contains(code.join("\n").trim_end_matches('\n')),
            "not in the program:\n{}",
            code.join("\n")
        );
        snippets += 1;
    }
    assert_eq!(snippets, 6);
}
