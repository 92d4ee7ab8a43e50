//! The manual page: every subcommand on one page, out of the definitions that `--help` shows.

use clap_mangen::Man;
use std::io::{self, Write};

/// Writes roff for `man rainbow-server`.
pub fn write_manual(mut command: clap::Command, out: &mut impl Write) -> io::Result<()> {
    command.build();
    let manual = Man::new(command.clone());
    manual.render_title(out)?;
    manual.render_name_section(out)?;
    manual.render_synopsis_section(out)?;
    manual.render_description_section(out)?;
    manual.render_options_section(out)?;
    for subcommand in command.get_subcommands().filter(|of| !of.is_hide_set() && of.get_name() != "help") {
        writeln!(out, ".SH {}", subcommand.get_name().to_uppercase())?;
        let (manual, mut sections) = (Man::new(subcommand.clone()), Vec::new());
        manual.render_synopsis_section(&mut sections)?;
        manual.render_description_section(&mut sections)?;
        if subcommand.get_arguments().next().is_some() {
            manual.render_options_section(&mut sections)?;
        }
        if subcommand.get_after_help().is_some() {
            manual.render_extra_section(&mut sections)?;
        }
        // Below the subcommand's own heading.
        let below = String::from_utf8_lossy(&sections).replace(".SH ", ".SS ").replace(".SS EXTRA", ".SS EXAMPLES");
        out.write_all(below.as_bytes())?;
    }
    let mut codes = Vec::new();
    manual.render_extra_section(&mut codes)?;
    out.write_all(String::from_utf8_lossy(&codes).replace(".SH EXTRA", ".SH \"EXIT STATUS\"").as_bytes())
}
