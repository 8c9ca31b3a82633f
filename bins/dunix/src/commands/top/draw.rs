//! The view as a frame: nodes above processes, a line for notes and keys, and what lies on top.

use super::{
    rows::Column,
    state::{Menu, MenuKind, Mode, Top},
};
use crate::commands::{nodes, table};
use dunix_admin_api::{NodeInfo, NodeState};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Clear, Paragraph, Row, Table, TableState},
};

/// Most nodes that the panel shows, so that processes have room; it says how many more there are.
const NODES_SHOWN_MAX: usize = 8;
const BAR_CELLS: u64 = 16;
const KEYS: &str = "? help  t tree  s sort  / filter  n node  k kill  m move  w why here  q quit";
const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything. `offset` is the first row that is shown, kept from frame to frame.
pub(super) fn draw(frame: &mut Frame<'_>, top: &mut Top, offset: &mut usize) {
    let panel = node_lines(top.nodes());
    let height = u16::try_from(panel.len()).unwrap_or(u16::MAX);
    let areas =
        Layout::vertical([Constraint::Length(height), Constraint::Min(2), Constraint::Length(1)])
            .split(frame.area());
    frame.render_widget(Paragraph::new(panel), areas[0]);
    // The header takes a row.
    top.handle_page(usize::from(areas[1].height.saturating_sub(1)));
    let mut state = TableState::new().with_offset(*offset).with_selected(top.at());
    frame.render_stateful_widget(process_table(top), areas[1], &mut state);
    *offset = state.offset();
    frame.render_widget(Paragraph::new(status(top)), areas[2]);
    match &top.mode {
        Mode::Menu(menu) => draw_menu(frame, menu),
        Mode::Text { title, lines, scroll } => draw_text(frame, title, lines, *scroll),
        Mode::List | Mode::Filter => {}
    }
}

fn node_lines(nodes: &[NodeInfo]) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = nodes.iter().take(NODES_SHOWN_MAX).map(node_line).collect();
    if nodes.len() > NODES_SHOWN_MAX {
        lines.push(Line::from(format!("and {} nodes more", nodes.len() - NODES_SHOWN_MAX)));
    }
    lines
}

fn node_line(node: &NodeInfo) -> Line<'static> {
    let used = node.memory_bytes_total.saturating_sub(node.memory_bytes_free);
    let load = node.load_milli.unwrap_or(0);
    let text = format!(
        "{:<8.8} {:<8} load [{}] {:>5} of {}  mem [{}] {:>4} of {:<4}  {} processes",
        table::printable(&node.name),
        nodes::state(node.state),
        bar(u64::from(load), u64::from(node.cpus_milli)),
        node.load_milli.map_or_else(|| "?".to_owned(), nodes::milli),
        nodes::milli(node.cpus_milli),
        bar(used, node.memory_bytes_total),
        table::bytes(used),
        table::bytes(node.memory_bytes_total),
        node.processes,
    );
    let colour = match node.state {
        NodeState::Up => Color::Green,
        NodeState::Suspect | NodeState::Draining => Color::Yellow,
        NodeState::Down => Color::Red,
    };
    Line::styled(text, colour)
}

/// A bar that is full at `whole`, and beyond it.
fn bar(part: u64, whole: u64) -> String {
    let filled = u128::from(part) * u128::from(BAR_CELLS) / u128::from(whole.max(1));
    let filled = usize::try_from(filled.min(u128::from(BAR_CELLS))).unwrap_or(0);
    let cells = usize::try_from(BAR_CELLS).unwrap_or(0);
    format!("{}{}", "|".repeat(filled), " ".repeat(cells - filled))
}

fn process_table(top: &Top) -> Table<'static> {
    let header = Column::ALL.map(|column| {
        let mark = if column == top.sort { "*" } else { "" };
        align(column, &format!("{}{mark}", column.title()))
    });
    let rows = top.rows().iter().map(|row| {
        Row::new(Column::ALL.iter().zip(&row.cells).map(|(column, cell)| align(*column, cell)))
    });
    let rows: Vec<Row<'static>> = rows.collect();
    Table::new(rows, Column::ALL.map(width))
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(SELECTED)
}

fn width(column: Column) -> Constraint {
    Constraint::Length(match column {
        Column::Pid => 10,
        Column::Node => 8,
        Column::User | Column::Cpu | Column::Memory => 6,
        Column::State => 2,
        Column::Time => 9,
        Column::Command => return Constraint::Min(10),
    })
}

fn align(column: Column, text: &str) -> Line<'static> {
    let line = Line::from(text.to_owned());
    match column {
        Column::Node | Column::State | Column::Command => line,
        _ => line.right_aligned(),
    }
}

fn status(top: &Top) -> String {
    if top.mode == Mode::Filter {
        return format!("/{}", top.filter);
    }
    if !top.note.is_empty() {
        return top.note.clone();
    }
    let mut shown = Vec::new();
    shown.extend(top.only().map(|node| format!("[only {node}]")));
    shown.extend((!top.filter.is_empty()).then(|| format!("[/{}]", top.filter)));
    shown.extend(top.tree.then(|| "[tree]".to_owned()));
    shown.push(KEYS.to_owned());
    shown.join(" ")
}

fn draw_menu(frame: &mut Frame<'_>, menu: &Menu) {
    let what = match menu.kind {
        MenuKind::Signal => "Signal for",
        MenuKind::Node => "Move",
    };
    let title = format!("{what} {}", menu.pid);
    let line = |(at, item): (usize, &String)| {
        Line::styled(table::printable(item), if at == menu.at { SELECTED } else { Style::new() })
    };
    let lines: Vec<Line<'static>> = menu.items.iter().enumerate().map(line).collect();
    // What is chosen stays in view.
    let area = window(frame.area(), title.len().max(16), lines.len());
    let scroll = (menu.at + 1).saturating_sub(usize::from(area.height.saturating_sub(2)));
    show(frame, area, &title, lines, scroll);
}

fn draw_text(frame: &mut Frame<'_>, title: &str, lines: &[String], scroll: usize) {
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let area = window(frame.area(), width.max(title.len()), lines.len());
    let lines = lines.iter().map(|line| Line::from(line.clone())).collect();
    show(frame, area, title, lines, scroll);
}

fn show(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'static>>, scroll: usize) {
    let scroll = u16::try_from(scroll).unwrap_or(u16::MAX);
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((scroll, 0)), area);
}

/// A window in the middle, with room for text of this size if the terminal has it.
fn window(area: Rect, columns: usize, rows: usize) -> Rect {
    let fit = |wanted: usize, most: u16| u16::try_from(wanted + 2).unwrap_or(most).min(most);
    area.centered(
        Constraint::Length(fit(columns, area.width)),
        Constraint::Length(fit(rows, area.height)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_bounded() {
        assert_eq!(bar(0, 0).trim(), "");
        assert_eq!(bar(1, 2).trim(), "||||||||");
        assert_eq!(bar(u64::MAX, 1), "|".repeat(16));
    }
}
