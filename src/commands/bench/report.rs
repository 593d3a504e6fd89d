//! The formats of a report: a table for people, CSV and JSON for programs. Rows are printed as they come.

use crate::commands::print;
use clap::ValueEnum;
use serde_json::{Map, Value};

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A Markdown table
    Md,
    /// A line of names, then a line a test
    Csv,
    /// One array
    Json,
    /// One object a line
    Jsonl,
}

/// A column of the table. Its width is fixed before the first row, as nobody waits for the last one.
pub(super) struct Column {
    pub name: &'static str,
    pub width: usize,
    pub left: bool,
}

impl Column {
    /// A column of texts at least as wide as each of `texts`.
    pub fn left<'t>(name: &'static str, width: usize, texts: impl Iterator<Item = &'t str>) -> Column {
        Column { name, width: texts.map(|text| text.chars().count()).fold(width, usize::max), left: true }
    }

    /// A column of numbers.
    pub fn right(name: &'static str, width: usize) -> Column {
        Column { name, width: width.max(name.chars().count()), left: false }
    }
}

/// The same row for people and for programs.
pub(super) struct Row {
    /// One for each column.
    pub cells: Vec<String>,
    /// All fields, the same ones in every row.
    pub record: Map<String, Value>,
}

/// A report on its way to standard output.
pub(super) struct Report {
    output: Output,
    columns: Vec<Column>,
    rows: usize,
}

impl Report {
    /// A report in this format; the columns are those of the table.
    pub fn new(output: Output, columns: Vec<Column>) -> Report {
        Report { output, columns, rows: 0 }
    }

    /// Prints a row.
    ///
    /// # Errors
    /// Standard output that cannot be written.
    pub fn row(&mut self, row: &Row) -> anyhow::Result<()> {
        let first = self.rows == 0;
        self.rows += 1;
        let mut text = String::new();
        match self.output {
            Output::Md => {
                if first {
                    text += &self.heading();
                }
                text += &self.line(row.cells.iter().map(String::as_str));
            }
            Output::Csv => {
                // As in llama-bench, what is a list is left out.
                let fields = || row.record.iter().filter(|(_, value)| !value.is_array());
                if first {
                    text += &(fields().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",") + "\n");
                }
                text += &(fields().map(|(_, value)| csv(value)).collect::<Vec<_>>().join(",") + "\n");
            }
            Output::Json => {
                text += if first { "[\n" } else { ",\n" };
                let object = serde_json::to_string_pretty(&row.record)?;
                text += &object.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
            }
            Output::Jsonl => text += &(serde_json::to_string(&row.record)? + "\n"),
        }
        print(text)
    }

    /// Prints what follows the last row: `notes` below a table, the end of a JSON array.
    ///
    /// # Errors
    /// As [`Report::row`].
    pub fn finish(self, notes: &[String]) -> anyhow::Result<()> {
        match self.output {
            Output::Md if self.rows > 0 => print(format!("\n{}\n", notes.join("\n"))),
            Output::Json if self.rows > 0 => print("\n]\n"),
            Output::Json => print("[]\n"),
            _ => Ok(()),
        }
    }

    fn heading(&self) -> String {
        let rule = |c: &Column| format!("{}{}", "-".repeat(c.width - 1), if c.left { '-' } else { ':' });
        let rules: Vec<_> = self.columns.iter().map(rule).collect();
        self.line(self.columns.iter().map(|c| c.name)) + &self.line(rules.iter().map(String::as_str))
    }

    fn line<'t>(&self, cells: impl Iterator<Item = &'t str>) -> String {
        let cell = |(c, text): (&Column, &str)| {
            let (text, w) = (text.replace('|', "/"), c.width);
            if c.left { format!(" {text:<w$} |") } else { format!(" {text:>w$} |") }
        };
        let cells: String = self.columns.iter().zip(cells).map(cell).collect();
        format!("|{cells}\n")
    }
}

/// A value in quotes, as llama-bench writes all of them; what there is not is empty.
fn csv(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace('"', "\"\""),
        value => value.to_string(),
    };
    format!("\"{text}\"")
}

/// A share of a limit, for people.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned() {
        let columns = vec![Column::left("model", 6, ["a long name"].into_iter()), Column::right("t/s", 8)];
        let report = Report::new(Output::Md, columns);
        let text = report.heading()
            + &report.line(["m|n", "1.00 ± 0.10"].into_iter())
            + &report.line(["m", "1 ± 0"].into_iter());
        let expected = "\
| model       |      t/s |
| ----------- | -------: |
| m/n         | 1.00 ± 0.10 |
| m           |    1 ± 0 |
";
        assert_eq!(text, expected);
    }

    #[test]
    fn csv_is_quoted() {
        let rows = [
            (json!(null), r#""""#),
            (json!("a \"b\", c"), r#""a ""b"", c""#),
            (json!(1.5), r#""1.5""#),
            (json!(true), r#""true""#),
        ];
        for (value, want) in rows {
            assert_eq!(csv(&value), want);
        }
    }
}
