"""Pictures: `style` (how they look), `study` (the report's). Imports matplotlib; nothing below imports this."""
