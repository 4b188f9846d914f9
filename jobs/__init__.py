"""The record: what was uploaded, what was asked, how far it is, what came out. No Flask, Celery or torch."""
