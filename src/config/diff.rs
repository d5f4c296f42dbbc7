//! What differs between two texts, line by line, as `diff -u` prints it.
//!
//! Equal beginnings and ends are set aside; what is left is compared by the longest common subsequence. Where that would be
//! too much to compare (the product of the lines is bounded), the whole middle counts as replaced.

/// Lines around a change.
const CONTEXT: usize = 3;
/// Most cells of the table.
const MOST_CELLS: usize = 4_000_000;

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'t> {
    Same(&'t str),
    Gone(&'t str),
    New(&'t str),
}

/// A unified diff; empty when nothing differs.
pub fn unified(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    let lines = lines(old, new);
    let changed: Vec<usize> =
        lines.iter().enumerate().filter(|(_, line)| !matches!(line, Line::Same(_))).map(|(at, _)| at).collect();
    let Some(first) = changed.first() else { return String::new() };
    let mut out = format!("--- {old_name}\n+++ {new_name}\n");
    let mut hunk = (first.saturating_sub(CONTEXT), first + 1);
    let mut hunks = Vec::new();
    for at in changed {
        if at > hunk.1 + 2 * CONTEXT {
            hunks.push(hunk);
            hunk.0 = at - CONTEXT;
        }
        hunk.1 = at + 1;
    }
    hunks.push(hunk);
    for (from, to) in hunks {
        let (before, rest) = lines.split_at(from.min(lines.len()));
        let body = rest.get(..(to + CONTEXT).min(lines.len()) - from).unwrap_or(rest);
        let count = |lines: &[Line<'_>], new: bool| {
            lines
                .iter()
                .filter(|line| if new { !matches!(line, Line::Gone(_)) } else { !matches!(line, Line::New(_)) })
                .count()
        };
        let range = |new: bool| {
            let (start, length) = (count(before, new), count(body, new));
            format!("{},{length}", if length == 0 { start } else { start + 1 })
        };
        out.push_str(&format!("@@ -{} +{} @@\n", range(false), range(true)));
        for line in body {
            let (sign, text) = match line {
                Line::Same(text) => (' ', text),
                Line::Gone(text) => ('-', text),
                Line::New(text) => ('+', text),
            };
            out.push(sign);
            out.push_str(text);
            out.push('\n');
        }
    }
    out
}

fn lines<'t>(old: &'t str, new: &'t str) -> Vec<Line<'t>> {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a_rest, b_rest) = (a.get(head..).unwrap_or_default(), b.get(head..).unwrap_or_default());
    let tail = a_rest.iter().rev().zip(b_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a_middle, a_tail) = a_rest.split_at(a_rest.len() - tail);
    let (b_middle, _) = b_rest.split_at(b_rest.len() - tail);
    let mut out: Vec<Line<'_>> = a.iter().take(head).map(|line| Line::Same(line)).collect();
    middle(a_middle, b_middle, &mut out);
    out.extend(a_tail.iter().map(|line| Line::Same(line)));
    out
}

fn middle<'t>(a: &[&'t str], b: &[&'t str], out: &mut Vec<Line<'t>>) {
    let width = b.len() + 1;
    if (a.len() + 1).saturating_mul(width) > MOST_CELLS {
        out.extend(a.iter().map(|line| Line::Gone(line)));
        out.extend(b.iter().map(|line| Line::New(line)));
        return;
    }
    // Length of the longest common subsequence of what follows, a row for each line of `a`.
    let mut table = vec![0_u32; (a.len() + 1) * width];
    let cell = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, left) in a.iter().enumerate().rev() {
        for (j, right) in b.iter().enumerate().rev() {
            let value = if left == right {
                cell(&table, i + 1, j + 1) + 1
            } else {
                cell(&table, i + 1, j).max(cell(&table, i, j + 1))
            };
            if let Some(place) = table.get_mut(i * width + j) {
                *place = value;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (a.get(i), b.get(j)) {
            (Some(left), Some(right)) if left == right => {
                out.push(Line::Same(left));
                (i, j) = (i + 1, j + 1);
            }
            (Some(left), right) if right.is_none() || cell(&table, i + 1, j) >= cell(&table, i, j + 1) => {
                out.push(Line::Gone(left));
                i += 1;
            }
            (_, Some(right)) => {
                out.push(Line::New(right));
                j += 1;
            }
            (_, None) => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_no_diff() {
        assert_eq!(unified("a\nb\n", "a\nb\n", "x", "y"), "");
        assert_eq!(unified("", "", "x", "y"), "");
    }

    #[test]
    fn changes_stand_in_their_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16\n";
        let new = old.replace("5\n6\n", "five\n6\n").replace("15\n", "").replace("16\n", "16\n17\n");
        let wanted = "--- version 1\n+++ version 2\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n\
                      @@ -12,5 +12,5 @@\n 12\n 13\n 14\n-15\n 16\n+17\n";
        assert_eq!(unified(old, &new, "version 1", "version 2"), wanted);
        assert_eq!(unified("", "a\n", "x", "y"), "--- x\n+++ y\n@@ -0,0 +1,1 @@\n+a\n");
        assert_eq!(unified("a\n", "", "x", "y"), "--- x\n+++ y\n@@ -1,1 +0,0 @@\n-a\n");
    }

    #[test]
    fn what_is_too_large_to_compare_is_replaced_whole() {
        let text = |from: u32| (from..from + 3_000).map(|n| format!("{n}\n")).collect::<String>();
        let diff = unified(&text(0), &text(10_000), "x", "y");
        assert_eq!(diff.lines().filter(|line| line.starts_with('-')).count(), 3_001);
    }
}
