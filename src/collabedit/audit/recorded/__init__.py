"""Audits of sessions that somebody recorded (ADR 0022)."""
