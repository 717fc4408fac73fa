//! Plain tables.

/// Rows of cells, the first column to the left, the others to the right.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with a heading.
    pub fn new(heading: &[&str]) -> Table {
        Table(vec![heading.iter().map(|&cell| cell.to_owned()).collect()])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    /// Prints the table to standard output as Markdown.
    pub fn print_markdown(&self) {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        for (i, row) in self.0.iter().enumerate() {
            println!("| {} |", row.join(" | "));
            if i == 0 {
                println!("|---{}|", "|---:".repeat(columns.saturating_sub(1)));
            }
        }
    }

    /// Prints the table to standard output.
    pub fn print(&self) {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (i, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                line += &if i == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            println!("{}", line.trim_end());
        }
    }
}
