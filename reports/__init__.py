"""Reports: tables in; leaderboards, pages and papers' tables out."""
